"""The console's log: its end, and its bound."""

from __future__ import annotations

import os
from pathlib import Path

from kilonova.virt.libvirt import console


def test_nothing_said_yet(tmp_path: Path) -> None:
    assert console.tail(tmp_path / "console.log", None) == ""
    assert not console.bound_size(tmp_path / "console.log")


def test_the_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_text("one\ntwo\nthree login: ")
    assert console.tail(log, None) == "one\ntwo\nthree login: "
    assert console.tail(log, 2) == "two\nthree login: "
    assert console.tail(log, 99) == "one\ntwo\nthree login: "
    assert console.tail(log, 0) == ""
    assert console.tail(log, -1) == ""


def test_what_follows_the_last_line_feed_is_a_line(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_text("one\ntwo\r\n")
    assert console.tail(log, 2) == "two\r\n"
    assert console.tail(log, 1) == ""


def test_binary_is_made_text(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(b"\x00\x1b[1mboot\xff\xfe\tok\r\n\xc3\xa9")
    assert console.tail(log, None) == "[1mboot\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\tok\r\né"


def test_a_long_log_is_read_from_its_end_only(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    with log.open("wb") as file:
        file.truncate(1 << 40)
        file.seek(0, os.SEEK_END)
        file.write(b"the end\n")
    text = console.tail(log, None)
    assert text.endswith("the end\n")
    assert len(text) <= console.KEPT


def test_a_guest_that_prints_without_end_is_bounded(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    writer = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)  # as QEMU holds it
    try:
        line = b"x" * 99 + b"\n"
        while log.stat().st_size <= console.MAX_SIZE:
            os.write(writer, line * 1000)
        assert console.bound_size(log)
        assert not console.bound_size(log)
        os.write(writer, b"after the cut\n")
        assert log.read_bytes() == b"after the cut\n"
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= console.MAX_SIZE
        lines = console.tail(log, 4).splitlines()
        assert lines == ["x" * 99, "x" * 99, "after the cut"]
    finally:
        os.close(writer)
