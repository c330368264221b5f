"""The way through private folders, for one user."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kilonova import passage


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that all may pass (pytest's own are closed)."""
    with tempfile.TemporaryDirectory(prefix="kilonova-test-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


def test_one_user_may_pass_and_nobody_else(open_folder: Path) -> None:
    top = open_folder / "state"
    inner = top / "hosts" / "h"
    inner.mkdir(parents=True)
    for path in (top, top / "hosts", inner):
        path.chmod(0o700)
    uid = 54321
    assert not passage.can_pass(inner, uid)
    if not passage.open_way(inner, top, uid):
        pytest.skip("this file system has no access control lists")
    assert passage.open_way(inner, top, uid), "a second time too"
    for path in (top, top / "hosts", inner):
        assert passage.can_pass(path, uid)
        assert not passage.can_pass(path, uid + 1)
        assert path.stat().st_mode & 0o007 == 0


def test_folders_above_are_not_ours_to_open(tmp_path: Path) -> None:
    private = tmp_path / "home"
    top = private / "state"
    top.mkdir(parents=True)
    private.chmod(0o700)
    assert not passage.open_way(top, top, 54321)
    assert private.stat().st_mode & 0o777 == 0o700


def test_the_obstacle_is_the_topmost_closed_folder(open_folder: Path) -> None:
    inner = open_folder / "a" / "b" / "c"
    inner.mkdir(parents=True)
    assert passage.obstacle(inner, 54321) is None
    (open_folder / "a" / "b").chmod(0o700)
    inner.chmod(0o700)
    assert passage.obstacle(inner, 54321) == open_folder / "a" / "b"
