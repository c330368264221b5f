"""What every ImageStore does. A new store joins by one more entry of STORES."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.ceph import USER

from kilonova.domain.errors import BadRequest, NotFound, TooLarge
from kilonova.image.base import ImageStore
from kilonova.image.file import FileStore
from kilonova.image.rbd import RbdStore
from kilonova.rbd import Cluster

STORES = ("file", "rbd")

GENEROUS = 1 << 30


@pytest.fixture(params=STORES)
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], ImageStore]]:
    """Opened again it has the same data."""
    if request.param == "file":
        yield lambda: FileStore(tmp_path / "images")
    else:
        cluster = Cluster(request.getfixturevalue("ceph").conf, USER)
        pool = cluster.pool("images")
        yield lambda: RbdStore(pool)
        for name in pool.names():
            pool.remove(name)
        cluster.close()


@pytest.fixture
def store(open_store: Callable[[], ImageStore]) -> ImageStore:
    return open_store()


@pytest.fixture
def image_id() -> str:
    return str(uuid.uuid4())


def has_data(store: ImageStore, image_id: str) -> bool:
    try:
        store.open(image_id).close()
    except NotFound:
        return False
    return True


def broken(reason: type[BaseException]) -> Iterator[bytes]:
    yield b"x" * 100_000
    raise reason("gone")


@pytest.mark.parametrize("chunks", [[], [b""], [b"one"], [b"a", b"", b"bc"], [b"x" * 3_000_000, b"y" * 7]])
def test_gives_back_what_was_put(store: ImageStore, image_id: str, chunks: list[bytes]) -> None:
    data = b"".join(chunks)
    assert store.put(image_id, chunks, GENEROUS) == len(data)
    assert b"".join(store.read(image_id)) == data
    with store.open(image_id) as file:
        assert file.read() == data
        file.seek(len(data) // 2)
        assert file.read() == data[len(data) // 2 :]


def test_data_outlives_the_process(open_store: Callable[[], ImageStore], image_id: str) -> None:
    open_store().put(image_id, [b"kept"], GENEROUS)
    assert b"".join(open_store().read(image_id)) == b"kept"


def test_images_do_not_mix(store: ImageStore) -> None:
    ids = [str(uuid.uuid4()) for _ in range(3)]
    for image_id in ids:
        store.put(image_id, [image_id.encode()], GENEROUS)
    store.delete(ids[1])
    assert [has_data(store, image_id) for image_id in ids] == [True, False, True]
    assert b"".join(store.read(ids[2])) == ids[2].encode()


def test_nothing_is_kept_of_data_that_is_too_large(store: ImageStore, image_id: str) -> None:
    with pytest.raises(TooLarge):
        store.put(image_id, [b"x" * 60, b"x" * 60], 100)
    assert not has_data(store, image_id)
    assert store.put(image_id, [b"x" * 60, b"x" * 40], 100) == 100


@pytest.mark.parametrize("reason", [BadRequest, OSError, KeyboardInterrupt])
def test_nothing_is_kept_of_an_upload_that_breaks(
    store: ImageStore, image_id: str, reason: type[BaseException]
) -> None:
    with pytest.raises(reason):
        store.put(image_id, broken(reason), GENEROUS)
    assert not has_data(store, image_id)


def test_there_is_no_data_before_all_of_it(store: ImageStore, image_id: str) -> None:
    seen: list[bool] = []

    def chunks() -> Iterator[bytes]:
        for _ in range(3):
            seen.append(has_data(store, image_id))
            yield b"x" * 1_000_000

    store.put(image_id, chunks(), GENEROUS)
    assert seen == [False] * 3
    assert has_data(store, image_id)


def test_delete_is_safe_to_repeat(store: ImageStore, image_id: str) -> None:
    store.delete(image_id)
    store.put(image_id, [b"x"], GENEROUS)
    store.delete(image_id)
    store.delete(image_id)
    assert not has_data(store, image_id)
    with pytest.raises(NotFound):
        b"".join(store.read(image_id))


def test_a_reader_keeps_what_it_reads_through_a_delete(store: ImageStore, image_id: str) -> None:
    store.put(image_id, [b"x" * 10], GENEROUS)
    if store.name == "rbd":
        pytest.skip("Ceph keeps nothing for readers: who must be sure has the hash")
    with store.open(image_id) as file:
        store.delete(image_id)
        assert file.read() == b"x" * 10


@pytest.mark.parametrize(
    "name",
    [
        "",
        "..",
        "../x",
        "/etc/passwd",
        "a\0b",
        "12345678-1234-1234-1234-123456789abc\n",
        "12345678-1234-1234-1234-123456789ABC",
        "{12345678-1234-1234-1234-123456789abc}",
    ],
)
def test_only_uuids_are_names(store: ImageStore, name: str) -> None:
    for act in (store.open, store.delete, lambda bad: store.put(bad, [b"x"], GENEROUS)):
        with pytest.raises(BadRequest):
            act(name)
