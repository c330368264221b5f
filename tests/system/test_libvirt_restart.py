"""Guests survive the process that made them, and the next process knows what they are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

import pytest

pytestmark = pytest.mark.system
CHILD = Path(__file__).with_name("libvirt_child.py")


def child(state: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(CHILD), str(state), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def look(state: Path) -> dict[str, object]:
    process = child(state, "look")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return json.loads(said.splitlines()[-1])


def qemu_user(server_id: str) -> int | None:
    """Whom the guest's QEMU runs as; None if there is no such process."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"guest=instance-{server_id}," in (folder / "cmdline").read_text():
                return folder.stat().st_uid
        except OSError:
            continue
    return None


def links_to(state: Path) -> list[Path]:
    """Those in /run that lead below it. (Others come and go.)"""
    found = []
    for link in Path("/run").glob("kilonova-*"):
        with suppress(OSError):
            if link.readlink().is_relative_to(state):
                found.append(link)
    return found


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Private, and too deep for sockets: as a user's folder may be."""
    deep = tmp_path / ("a-rather-long-name-" * 3) / "state"
    deep.mkdir(parents=True, mode=0o700)
    for path in [tmp_path, *tmp_path.parents]:
        if "pytest-of-" in str(path):
            path.chmod(0o711)  # pytest's own folders; the state folder stays private
    deep.parent.chmod(0o711)
    return deep


def test_after_kill_9_guests_go_on_and_are_known(state: Path) -> None:
    runs, waits = str(uuid.uuid4()), str(uuid.uuid4())
    process = child(state, "build", runs, waits)
    try:
        assert process.stdout is not None
        said = list(takewhile("built\n".__ne__, process.stdout))
        assert "knew QEMU\n" in said, "a closed /dev/kvm is no reason to ask it again for every guest"
        assert qemu_user(runs) not in (None, 0), "QEMU does not run as root"
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        after_the_kill, linked = qemu_user(runs), links_to(state)
        known = look(state)  # which removes the guests, too
    assert after_the_kill is not None
    assert known == {"guests": {runs: ["RUNNING", False], waits: ["PAUSED", True]}, "left": []}
    assert qemu_user(runs) is None
    assert qemu_user(waits) is None
    assert len(linked) == 1, "its path is too long for sockets"
    assert links_to(state) == []
    assert state.stat().st_mode & 0o007 == 0
    assert list((state / "hosts").glob("*/instances/*")) == []
