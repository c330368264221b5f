"""Files that are being made: what a dead maker, or its tools, left is never what the next one makes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.running import until

from kilonova.domain.errors import Unavailable
from kilonova.volume.backends import parts


def test_what_a_dead_makers_tool_still_writes_is_not_in_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "volume"
    part = parts.part_of(path)
    with part.open("wb") as orphan, parts.being_made(path) as file:
        file.write(b"good")
        orphan.write(b"evil of the past")
        orphan.flush()
        parts.put(file, path)
    assert path.read_bytes() == b"good"
    assert [one.name for one in tmp_path.iterdir()] == ["volume"]


def test_who_makes_it_is_not_disturbed(tmp_path: Path) -> None:
    path = tmp_path / "volume"
    with parts.being_made(path) as file:
        with pytest.raises(Unavailable, match="somebody else"), parts.being_made(path):
            pass
        with pytest.raises(Unavailable):
            parts.remove_left(parts.part_of(path))
        parts.put(file, path)
    assert path.exists()


def test_a_tool_dies_with_who_began_it(tmp_path: Path) -> None:
    """kill -9: nobody else would end it, and it would write on."""
    pid = tmp_path / "pid"
    tool = tmp_path / "qemu-img"
    tool.write_text(f"#!/bin/sh\necho $$ > {pid}.new && mv {pid}.new {pid}\nexec sleep 60\n")
    tool.chmod(0o755)
    code = (
        "from pathlib import Path; from kilonova.disk_image import qemu_img; "
        "qemu_img.create_empty(Path('x'), size=1)"
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as parent:
        until(pid.exists, 60, "the tool to begin")
        parent.send_signal(signal.SIGKILL)
    running = Path(f"/proc/{int(pid.read_text())}/status")
    until(lambda: _is_dead(running), 60, "the tool to die")


def _is_dead(status: Path) -> bool:
    try:
        return "State:\tZ" in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
