"""Guests that end must not stay as zombies.

QEMU detaches itself, so its parent becomes PID 1, or the nearest *subreaper*. Where PID 1 reaps slowly, or
not at all (many containers), libvirt takes seconds to believe that a guest is gone. A process that calls
``adopt_guests()`` becomes the subreaper of the guests it starts and reaps them at once; and with them the
DHCP servers, which detach themselves in the same way.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_COMMANDS = ("qemu-system", "dnsmasq")
"""How the names of adopted processes begin."""
_NO_CHILDREN_SECONDS = 0.1
_FOREIGN_SECONDS = 0.02
_started = threading.Lock()


def adopt_guests() -> None:
    """Process-wide, once: called by the command line of a process that holds a libvirt driver."""
    if not _started.acquire(blocking=False):
        return
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    threading.Thread(target=_reap, name="reaper", daemon=True).start()


def _reap() -> None:
    """Wait for any child to end, without taking it; then take those that were adopted."""
    while True:
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            time.sleep(_NO_CHILDREN_SECONDS)  # nothing to wait for until somebody starts something
            continue
        if not any(_take(pid) for pid in _children()):
            # A child of somebody else in this process, who is about to take it. If nobody does, waitid()
            # shows that one for ever, whatever else ends: so all children are looked at, each time.
            time.sleep(_FOREIGN_SECONDS)


def _children() -> list[int]:
    """Our children, of whichever thread."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found


def _take(pid: int) -> bool:
    """Reap the child, if it was adopted and has ended."""
    if not _is_adopted(pid):
        return False
    with suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    return False


def _is_adopted(pid: int) -> bool:
    """A daemon of another session: libvirt's own helpers and our subprocesses share our session."""
    try:
        name, rest = Path(f"/proc/{pid}/stat").read_text().split("(", 1)[1].rsplit(")", 1)
    except (OSError, IndexError, ValueError):
        return False
    return name.startswith(_COMMANDS) and int(rest.split()[3]) != os.getsid(0)
