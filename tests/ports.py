"""Ports for servers that keep them when they are stopped and started again, while other tests do the same."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

_PORTS = range(20_000, 30_000)
"""The kernel gives none of these to who asks for any port, as half the tests do meanwhile."""
_ours: set[int] = set()
_held = os.open(
    Path(tempfile.gettempdir(), f"kilonova-test-ports-{os.geteuid()}"),
    os.O_RDWR | os.O_CREAT | os.O_CLOEXEC,
    0o600,
)
"""An empty file. Who has locked the byte of a port's number has the port, until its process ends."""


def free_ports(count: int) -> list[int]:
    """Of loopback, where nobody listens: this process's until it ends."""
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        if len(found) == count:
            break
        if port not in _ours and _is_free(port):
            _ours.add(port)
            found.append(port)
    assert len(found) == count, "no port is free"
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            fcntl.lockf(_held, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
