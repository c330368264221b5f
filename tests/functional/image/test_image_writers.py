"""Several processes serve the images of one database: what one of them writes, the others leave alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.functional.image.conftest import Caller
from tests.functional.image.test_image_data import Running, SlowClient

from kilonova.config import Config
from kilonova.domain.errors import Conflict, NotFound, Unavailable
from kilonova.image.file import FileStore
from kilonova.image.service import Images
from kilonova.image.writers import Writers
from kilonova.store.database import Database

Opened = Callable[[str], Images]


@pytest.fixture
def opened(database: Database, folder: Path, tmp_path: Path) -> Opened:
    """A process on that machine, with the store that all have."""
    return lambda machine: Images(database, FileStore(folder), Config(), writers=Writers(tmp_path / machine))


@pytest.mark.parametrize("machine", ["here", "elsewhere"])
def test_who_starts_ends_no_upload_of_others(alice: Caller, opened: Opened, machine: str) -> None:
    """Such as a volume manager, which starts while the API takes an image."""
    image_id = alice.create()["id"]
    upload = Running(opened("here"), image_id, SlowClient(b"and the rest"))
    other = opened(machine)
    assert other.recover()
    assert other.resume()
    assert alice.show(image_id)["status"] == "saving"
    upload.finish()
    assert upload.error is None
    assert other.resume()
    assert alice("GET", f"/v2/images/{image_id}/file").content == b"partand the rest"


def test_who_was_taken_for_dead_ends_nothing_any_more(alice: Caller, opened: Opened, folder: Path) -> None:
    """It wakes up when its upload was given up, and done again by another."""
    image_id, first = alice.create()["id"], opened("here")
    upload = Running(first, image_id, SlowClient(b"and the rest"))
    first._writers.close()
    other = opened("here")
    assert other.resume()
    assert alice.show(image_id)["status"] == "queued"
    assert alice.upload(image_id, b"again").status_code == 204
    upload.finish()
    assert isinstance(upload.error, NotFound)
    shown = alice.show(image_id)
    assert (shown["status"], shown["size"]) == ("active", 5)
    assert (folder / image_id).exists()


def test_an_image_that_became_active_is_not_emptied_later(
    alice: Caller, opened: Opened, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was cut off could not be removed at first; meanwhile who knew of that has done it again."""
    image_id, first = alice.create()["id"], opened("here")
    upload = Running(first, image_id, SlowClient(OSError("its connection broke")))
    first._writers.close()
    other = opened("here")

    def kept(_image_id: str) -> None:
        raise Conflict("somebody has it open")

    with monkeypatch.context() as patch:
        patch.setattr(other.stores, "delete", kept)
        assert not other.resume()
        assert alice.show(image_id)["status"] == "saving"
    upload.finish()
    other.reset_upload(image_id)
    assert alice.upload(image_id, b"again").status_code == 204
    assert other.resume()
    assert alice("GET", f"/v2/images/{image_id}/file").content == b"again"


def test_what_is_being_written_is_not_done_again(alice: Caller, opened: Opened) -> None:
    image_id, first = alice.create()["id"], opened("here")
    upload = Running(first, image_id, SlowClient(b"and the rest"))
    for process in (first, opened("here")):
        with pytest.raises(Unavailable):
            process.reset_upload(image_id)
    upload.finish()
    first.reset_upload(image_id)
    assert alice.show(image_id)["status"] == "active"


def test_of_processes_that_are_gone_nothing_is_kept(alice: Caller, opened: Opened, tmp_path: Path) -> None:
    image_id, first, second = alice.create()["id"], opened("here"), opened("here")
    upload = Running(first, image_id, SlowClient(b"and the rest"))
    first._writers.close()
    second._writers.close()
    assert len(list((tmp_path / "here").iterdir())) == 1, "of the one whose upload was cut off"
    third = opened("here")
    assert third.resume()
    assert [path.name for path in (tmp_path / "here").iterdir()] == [third._writers._name]
    upload.finish()
