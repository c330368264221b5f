"""What is the file store's own: temporary files, locks, a disk that is full."""

from __future__ import annotations

import resource
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from kilonova.domain.errors import TooLarge
from kilonova.image.file import FileStore

GENEROUS = 1 << 30


@pytest.fixture
def small_files() -> Iterator[None]:
    """This process can't write past 1 MiB of a file: what a full disk looks like, without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, small_files: None) -> None:
    store, image_id = FileStore(tmp_path), str(uuid.uuid4())
    with pytest.raises(TooLarge, match="storage media is full"):
        store.put(image_id, [b"x" * (3 << 20)], GENEROUS)
    assert list(tmp_path.iterdir()) == []


def test_a_start_removes_half_uploads_and_nothing_else(tmp_path: Path) -> None:
    image_id = str(uuid.uuid4())
    FileStore(tmp_path).put(image_id, [b"whole"], GENEROUS)
    (tmp_path / f"{uuid.uuid4()}.{uuid.uuid4().hex}.part").write_bytes(b"half")
    store = FileStore(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [image_id]
    assert b"".join(store.read(image_id)) == b"whole"


def test_a_start_beside_a_running_upload_leaves_it_alone(tmp_path: Path) -> None:
    image_id = str(uuid.uuid4())

    def chunks() -> Iterator[bytes]:
        yield b"first "
        FileStore(tmp_path)  # another process on this folder
        yield b"second"

    store = FileStore(tmp_path)
    store.put(image_id, chunks(), GENEROUS)
    assert b"".join(store.read(image_id)) == b"first second"


def test_others_on_the_host_read_nothing(tmp_path: Path) -> None:
    folder, image_id = tmp_path / "images", str(uuid.uuid4())
    FileStore(folder).put(image_id, [b"x"], GENEROUS)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / image_id).stat().st_mode) == 0o600
