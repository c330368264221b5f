"""Where a secret can be read that nobody may read: files, what a process says and is called with, answers."""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.running import Up


def places_of(secret: str, up: Up, server_id: str, answered: str) -> list[str]:
    """Of all that a Kilonova with a guest wrote and told: what has the secret, as it is or in base64.

    ``answered``: all that the API said. AssertionError where there is nothing to look at.
    """
    written = {
        str(path): _read(path)
        for top in (up.state, *Path("/dev/shm").glob("kilonova-*"))
        for path in _files(top)
    }
    assert any(name.endswith("kilonova.db") for name in written)
    assert any(f"instance-{server_id}" in name and name.endswith(".xml") for name in written)
    processes = {str(path): _read(path) for path in Path("/proc").glob("[0-9]*/cmdline")}
    assert any(server_id.encode() in words for words in processes.values())
    said = {"the API": answered.encode(), "the process": up.said.encode()}
    forms = (secret.encode(), base64.b64encode(secret.encode()))
    return [
        place for place, text in (written | processes | said).items() if any(form in text for form in forms)
    ]


def _files(top: Path) -> Iterator[Path]:
    """But for images. (Some go meanwhile: another Kilonova's, too.)"""
    for folder, _, names in os.walk(top):
        for path in (Path(folder, name) for name in names):
            with suppress(OSError):
                status = path.stat()
                if stat.S_ISREG(status.st_mode) and status.st_size < 16 << 20:
                    yield path


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # gone by now
        return b""
