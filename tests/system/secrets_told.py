"""Where a secret can be read that nobody may read: files, what a process says and is called with, answers."""

from __future__ import annotations

import base64
from pathlib import Path

from tests.running import Up


def places_of(secret: str, up: Up, server_id: str, answered: str) -> list[str]:
    """Of all that a Kilonova with a guest wrote and told: what has the secret, as it is or in base64.

    ``answered``: all that the API said. AssertionError where there is nothing to look at.
    """
    written = {
        str(path): _read(path)
        for top in (up.state, *Path("/dev/shm").glob("kilonova-*"))
        for path in top.rglob("*")
        if path.is_file() and path.stat().st_size < 16 << 20
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


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # gone by now
        return b""
