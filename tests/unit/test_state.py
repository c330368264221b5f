"""The state folder's files: written whole, private, by several processes at the same time."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kilonova.cli.state import Folder, write_private


def test_several_write_one_file_at_the_same_time(tmp_path: Path) -> None:
    """APIs that share a state folder start together."""
    path = tmp_path / "openrc"
    texts = [letter * 5000 for letter in "abcd"]

    def write(text: str) -> None:
        for _ in range(200):
            write_private(path, text)
            assert path.read_text() in texts

    with ThreadPoolExecutor(len(texts)) as pool:
        list(pool.map(write, texts))
    assert [one.name for one in tmp_path.iterdir()] == ["openrc"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_another_has_put_in_the_way_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("theirs")
    (tmp_path / "openrc.new").symlink_to(tmp_path / "other")
    (tmp_path / "admin-password").write_text("secret\n")
    Folder(tmp_path).write_credentials("http://192.0.2.1", "RegionOne")
    assert (tmp_path / "other").read_text() == "theirs"
    assert not (tmp_path / "openrc").is_symlink()


def test_what_cannot_be_put_there_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "openrc").mkdir()
    with pytest.raises(OSError, match="openrc"):
        write_private(tmp_path / "openrc", "secret")
    assert [one.name for one in tmp_path.iterdir()] == ["openrc"]
