"""What takes long is shown on the terminal that `kilonova up` was started in, and nowhere else."""

from __future__ import annotations

import os
import pty
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.running import Up, until

SLOW = "[fake.step_seconds]\nensure_paused = 4.0\n"


class Terminal:
    """What a program that has it as its terminal writes there."""

    def __init__(self) -> None:
        self._ours, self.theirs = pty.openpty()
        self.screen = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self._ours, 65536):
                self.screen += data
        except OSError:
            pass  # EIO: nobody has it open any more

    def close(self) -> None:
        os.close(self.theirs)
        self._reader.join()
        os.close(self._ours)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


@pytest.fixture
def up(tmp_path: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> Iterator[Up]:
    monkeypatch.setenv("TERM", "xterm")
    up = Up(tmp_path / "state")
    up.stderr = terminal.theirs
    yield up.start(SLOW)
    up.kill()


def test_a_build_that_takes_long_is_shown_with_its_step(up: Up, terminal: Terminal) -> None:
    _, answer = up.post_server(up.image(b"bytes"), name="a-long-one")
    until(lambda: b"a-long-one" in terminal.screen and b"create_domain on" in terminal.screen, 60, "its line")
    assert up.settled(answer["server"]["id"])["status"] == "ACTIVE"
    assert up.stop() == 0
    assert "a-long-one" not in up.said, "what goes to a file or a program has whole lines alone"
