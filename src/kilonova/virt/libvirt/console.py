"""The serial console's log: its end for the reader, and a bound to its size.

QEMU appends to ``console.log`` (O_APPEND), so the file can be cut to nothing while the guest writes. What
is cut is kept once, in ``console.log.1``. A guest that prints without end fills MAX_SIZE, not the host.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from kilonova import log

MAX_SIZE = 4 << 20
KEPT = 1 << 20
"""Bytes of the end that a cut keeps, and that a reader gets at most."""
_CHECK_SECONDS = 5.0
# Not text, and not allowed in the API's documents; tab, newline and carriage return stay.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_log = log.get("virt.console")


def tail(path: Path, lines: int | None) -> str:
    """The last ``lines`` lines (all that are kept if None). "" if the guest has said nothing yet.

    What follows the last line feed is a line too, even if it is empty: Nova's clients count so.
    """
    data = _end(path, KEPT)
    if len(data) < KEPT:
        data = _end(_cut(path), KEPT - len(data)) + data
    text = _CONTROL.sub("", data.decode("utf-8", errors="replace"))
    if lines is None:
        return text
    if lines <= 0:
        return ""
    return "\n".join(text.split("\n")[-lines:])


def bound_size(path: Path) -> bool:
    """Cut the log if it is too long; True if it was. What the guest prints in between may be lost."""
    try:
        if path.stat().st_size <= MAX_SIZE:
            return False
        part = path.with_name(path.name + ".part")
        part.write_bytes(_end(path, KEPT))
        part.chmod(0o600)
        part.rename(_cut(path))
        os.truncate(path, 0)
    except FileNotFoundError:
        return False
    return True


class Keeper:
    """A thread that bounds every console log. The file system has no event for "grew past"."""

    def __init__(self, logs: Callable[[], Iterable[Path]]) -> None:
        self._logs = logs
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="console-keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_CHECK_SECONDS):
            for path in self._logs():
                try:
                    if bound_size(path):
                        _log.info("console_cut", path=str(path))
                except OSError as error:
                    _log.warning("console_not_cut", path=str(path), reason=str(error))


def _cut(path: Path) -> Path:
    return path.with_name(path.name + ".1")


def _end(path: Path, size: int) -> bytes:
    """The last ``size`` bytes of the file; b"" if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return file.read(size)
    except FileNotFoundError:
        return b""
