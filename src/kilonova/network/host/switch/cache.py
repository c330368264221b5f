"""What the switch remembers of its flows, and when it has forgotten: ovs-vswitchd's own control socket.

The switch decides by its flows once, and then by what it remembers of that, which it looks through after each
change: in milliseconds, but after it has said that the change is done. Until then packets may pass as before.
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kilonova.domain.errors import Unavailable

_TIMEOUT = 5.0
_SOON = 0.01
"""Seconds within which a look ends; by itself the switch looks twice a second."""


def await_look(folder: Path, disturb: Callable[[], None]) -> None:
    """A look through all that is remembered has ended since the call; it may have begun before.

    ``folder``: where the switch has its sockets. ``disturb``: a change, so that there is a look to wait for;
    again if that one was over before the switch had heard of us. Unavailable: it does not answer.
    """
    deadline = time.monotonic() + _TIMEOUT
    try:
        process = int((folder / "ovs-vswitchd.pid").read_text())
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(_TIMEOUT)
            one.connect(str(folder / f"ovs-vswitchd.{process}.ctl"))
            one.sendall(b'{"id":0,"method":"revalidator/wait","params":[]}')
            disturb()
            while not select.select([one], [], [], _SOON)[0] and time.monotonic() < deadline:
                disturb()
            said = _answer(one)
        if said.get("error") is not None:
            raise OSError(said["error"])
    except (OSError, ValueError) as error:
        raise Unavailable(f"Open vSwitch does not answer in {folder}: {error}") from error


def _answer(one: socket.socket) -> Any:
    """JSON, which ends where it is whole."""
    answer = b""
    while more := one.recv(4096):
        answer += more
        try:
            return json.loads(answer)
        except ValueError:
            continue
    raise OSError("not answered")
