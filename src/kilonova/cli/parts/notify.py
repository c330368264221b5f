"""Tell the service manager how this process is (sd_notify(3)): one datagram, if it wants to know."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def ready(status: str) -> None:
    """It serves. ``status`` is shown by `systemctl status`."""
    _tell(f"READY=1\nSTATUS={status}")


def stopping() -> None:
    _tell("STOPPING=1")


def _tell(words: str) -> None:
    """A manager that does not listen harms nobody. A name that begins with @ is an abstract one."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager, suppress(OSError):
        manager.connect("\0" + path[1:] if path.startswith("@") else path)
        manager.send(words.encode())
