"""kilonova.rbd on a real Ceph."""

from __future__ import annotations

import base64
import errno
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.ceph import USER, Ceph
from tests.running import until

from kilonova.domain.errors import Conflict, NotFound, TooLarge, Unavailable, VolumeFailed
from kilonova.rbd import Cluster, Pool, Snapshot, bindings
from kilonova.rbd.keyring import key_of

MIB = 1 << 20


@pytest.fixture(scope="module")
def cluster(ceph: Ceph) -> Iterator[Cluster]:
    made = Cluster(ceph.conf, USER, timeout=3)
    yield made
    made.close()


@pytest.fixture
def volumes(cluster: Cluster) -> Iterator[Pool]:
    """Empty, and empty again in the end, its trash too."""
    pool = cluster.pool("volumes")
    assert (pool.names(), pool.trashed()) == (set(), set())
    yield pool
    for name in pool.names():
        pool.remove(name)
    assert (pool.names(), pool.trashed()) == (set(), set())


def written(pool: Pool, name: str, *parts: bytes, size: int = 16 * MIB) -> None:
    pool.create(name, size)
    with pool.writing(name) as writer:
        for part in parts:
            writer.write(part)


def start(pool: Pool, name: str, length: int = 4) -> bytes:
    with pool.open(name) as file:
        return file.read(length)


def test_a_key_is_found_as_ceph_would_find_it(ceph: Ceph, tmp_path: Path) -> None:
    key = base64.b64decode(ceph.key)
    assert key_of(ceph.conf, USER) == key
    conf = tmp_path / "ceph.conf"
    conf.write_text(f"[client.me]\nkey = {ceph.key}\n[client.damaged]\nkeyring = {tmp_path}/damaged\n")
    assert key_of(conf, "me") == key
    (tmp_path / "damaged").write_text(f"what is it\n{ceph.key}")
    for where, user in ((ceph.conf, "stranger"), (tmp_path / "none", USER), (conf, "damaged")):
        with pytest.raises(Unavailable) as caught:
            key_of(where, user)
        assert ceph.key not in caught.value.message


def test_it_knows_its_cluster(ceph: Ceph, cluster: Cluster) -> None:
    assert cluster.fsid == ceph.fsid
    assert cluster.monitors == ceph.monitors
    total, free = cluster.pool("volumes").capacity()
    assert total >= free > 1 << 30


def test_a_disk_is_written_and_read(volumes: Pool) -> None:
    written(volumes, "disk", b"head" + bytes(MIB - 4), bytes(MIB), b"tail")
    with volumes.open("disk") as file:
        assert file.read(6) == b"head\0\0"
        assert file.seek(2 * MIB) == 2 * MIB
        assert file.read(6) == b"tail\0\0"
        assert file.seek(0, io.SEEK_END) == 16 * MIB
        assert file.read(1) == b""
    assert volumes.size("disk") == 16 * MIB
    with pytest.raises(Conflict):
        volumes.create("disk", MIB)


def test_a_disk_grows_and_never_shrinks(volumes: Pool) -> None:
    written(volumes, "disk", b"data", size=MIB)
    volumes.resize("disk", 2 * MIB)
    volumes.resize("disk", MIB)
    with volumes.open("disk") as file:
        assert file.read() == b"data" + bytes(2 * MIB - 4)


def test_what_does_not_exist(volumes: Pool) -> None:
    assert not volumes.exists("none")
    assert not volumes.marked("none")
    volumes.remove("none")
    volumes.remove_snapshot("none", "s")
    for ask in (volumes.size, volumes.open, volumes.snapshots):
        with pytest.raises(NotFound):
            ask("none")


def test_a_clone_outlives_what_it_was_made_of(cluster: Cluster, volumes: Pool) -> None:
    images = cluster.pool("images")
    written(images, "image", b"data")
    images.snapshot("image", "snap", protect=True)
    images.snapshot("image", "snap", protect=True)
    volumes.clone(Snapshot("images", "image", "snap"), "first")
    volumes.resize("first", 32 * MIB)
    volumes.snapshot("first", "s")
    volumes.clone(Snapshot("volumes", "first", "s"), "second")
    images.remove("image")
    volumes.remove("first")
    assert (images.names(), volumes.names()) == (set(), {"second"})
    assert (images.trashed(), volumes.trashed()) == (set(), set())  # they are needed
    assert start(volumes, "second") == b"data"
    assert volumes.size("second") == 32 * MIB
    volumes.remove("second")
    for pool in (images, volumes):
        with pool.cluster.connection().open_ioctx(pool.name) as ioctx:  # type: ignore[attr-defined]
            assert list(bindings.rbd().trash_list(ioctx)) == []


def test_a_snapshot_has_the_bytes_of_its_moment(volumes: Pool) -> None:
    written(volumes, "disk", b"then")
    volumes.snapshot("disk", "s")
    with volumes.writing("disk") as writer:
        writer.write(b"now!")
    with volumes.open("disk", "s") as file:
        assert file.read(4) == b"then"
    assert volumes.snapshots("disk") == {"s"}
    volumes.remove_snapshot("disk", "s")
    volumes.remove_snapshot("disk", "s")
    assert volumes.snapshots("disk") == set()


OPENS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from kilonova.rbd import Cluster

pool = Cluster(Path(sys.argv[1]), sys.argv[2]).pool("volumes")
with ThreadPoolExecutor(8) as threads:
    assert set(threads.map(lambda _: pool.size("clone"), range(1500))) == {16 << 20}
pool.cluster.close()
"""


def test_clones_are_opened_and_closed_in_many_threads(ceph: Ceph, volumes: Pool) -> None:
    """Where what is freed is overwritten, so that who uses it yet does not get away with it."""
    written(volumes, "disk", b"data")
    volumes.snapshot("disk", "s")
    volumes.clone(Snapshot("volumes", "disk", "s"), "clone")
    command = [sys.executable, "-c", OPENS, str(ceph.conf), USER]
    environment = os.environ | {"MALLOC_PERTURB_": "165"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_mark_of_a_whole_image_is_not_inherited(volumes: Pool) -> None:
    written(volumes, "disk", b"data")
    volumes.mark("disk")
    volumes.snapshot("disk", "s")
    volumes.clone(Snapshot("volumes", "disk", "s"), "clone")
    assert volumes.marked("disk")
    assert not volumes.marked("clone")


def test_what_is_open_is_not_removed(volumes: Pool) -> None:
    written(volumes, "disk", b"data")
    with volumes.writing("disk"), pytest.raises(Conflict):
        volumes.remove("disk")
    assert start(volumes, "disk") == b"data"


def test_the_trash_of_others_stays(volumes: Pool) -> None:
    volumes.create("theirs", MIB)
    bindings.rbd().trash_move(volumes.io(), "theirs", 0)
    volumes.remove("ours")
    (kept,) = bindings.rbd().trash_list(volumes.io())
    assert (kept["name"], volumes.trashed()) == ("theirs", set())
    bindings.rbd().trash_remove(volumes.io(), kept["id"], False)


def test_what_a_kill_left_in_the_trash_is_found_and_removed(
    volumes: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(volumes, "disk", b"data")
    with monkeypatch.context() as patch:
        patch.setattr("kilonova.rbd.trash._purge", lambda *_: None)
        volumes.remove("disk")
    assert volumes.trashed() == {"disk"}
    volumes.remove("disk")
    assert volumes.trashed() == set()


def test_what_somebody_is_busy_with_in_the_trash_stops_no_other_removal(
    volumes: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ceph takes who was killed for dead half a minute later."""
    written(volumes, "disk", b"data")
    with monkeypatch.context() as patch:
        patch.setattr("kilonova.rbd.trash._purge", lambda *_: None)
        volumes.remove("disk")
    (kept,) = bindings.rbd().trash_list(volumes.io())
    with bindings.image(volumes.io(), None, image_id=kept["id"]):
        volumes.remove("another")
        with pytest.raises(Conflict, match="in use"):
            volumes.remove("disk")
    volumes.remove("disk")
    assert volumes.trashed() == set()


def test_names_that_qemu_or_ceph_would_read_otherwise_are_refused(volumes: Pool) -> None:
    for name in ("", "a/b", "a@b", "a:b"):
        with pytest.raises(Conflict):
            volumes.create(name, MIB)


def test_a_user_who_is_not_let_in(ceph: Ceph, tmp_path: Path) -> None:
    conf = tmp_path / "ceph.conf"
    keyring = tmp_path / "keyring"
    key = ceph.key[:-6] + "AAAA=="
    keyring.write_text(f"[client.{USER}]\n\tkey = {key}\n")
    conf.write_text(ceph.conf.read_text().replace("[client]", f"[client]\nkeyring = {keyring}"))
    with pytest.raises(Unavailable) as refused:
        Cluster(conf, USER, timeout=3).check()
    assert key not in refused.value.message
    with pytest.raises(Unavailable, match="nothing"):
        Cluster(tmp_path / "nothing.conf", USER, timeout=3).check()
    with pytest.raises(Unavailable, match="no pool other"):
        Cluster(ceph.conf, USER, timeout=3).pool("other").exists("disk")


def test_an_osd_that_does_not_answer(ceph: Ceph, volumes: Pool) -> None:
    """Stopped, it breaks connections; frozen, in the middle of a disk, it does not. Nothing is lost."""
    hasty = Cluster(ceph.conf, USER, timeout=1)
    pool = hasty.pool("volumes")
    written(volumes, "disk", b"data")
    ceph.stop_osd()
    try:
        for ask in (pool.size, pool.remove):
            with pytest.raises(Unavailable, match="ETIMEDOUT"):
                ask("disk")
    finally:
        ceph.start_osd()
    assert start(pool, "disk") == b"data"

    def write() -> None:
        with pool.writing("disk") as writer:
            writer.write(b"x" * 4 * MIB)
            ceph.freeze_osd()
            writer.write(b"x" * 4 * MIB)

    try:
        with pytest.raises(Unavailable):
            write()
    finally:
        ceph.thaw_osd()

    def removed() -> bool:
        try:
            volumes.remove("disk")
        except Conflict:
            return False
        return True

    until(removed, 60, "the watch of the broken writer to end")
    hasty.close()


def test_a_full_pool(ceph: Ceph, cluster: Cluster, volumes: Pool) -> None:
    """What needs no room is done, what needs it is refused at once, and nothing is left of it."""
    images = cluster.pool("images")
    written(images, "image", b"data")
    images.snapshot("image", "snap")
    volumes.create("gone", MIB)
    volumes.remove("gone")
    written(volumes, "disk", os.urandom(4 * MIB), os.urandom(4 * MIB))
    ceph.limit("volumes", 4 * MIB)
    try:
        until(lambda: volumes.capacity()[1] == 0, 60, "the manager to know")
        for make in (
            lambda: volumes.create("new", MIB),
            lambda: volumes.clone(Snapshot("images", "image", "snap"), "new"),
            lambda: written(volumes, "new", b"data"),
        ):
            with pytest.raises(TooLarge):
                make()
            volumes.remove("new")
        assert volumes.names() == {"disk"}
        volumes.remove("disk")
        assert (volumes.names(), volumes.trashed()) == (set(), set())
    finally:
        ceph.limit("volumes", 0)
    volumes.clone(Snapshot("images", "image", "snap"), "new")
    assert start(volumes, "new") == b"data"
    volumes.remove("new")
    images.remove("image")


def test_without_the_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rbd", None)
    with pytest.raises(Unavailable, match="python3-rbd"):
        bindings.check()


def test_other_errors_are_the_stores() -> None:
    class Odd(bindings._module("rbd").Error):  # type: ignore[misc]
        errno = errno.EINVAL

    with pytest.raises(VolumeFailed, match="EINVAL"), bindings.translated("x"):
        raise Odd
