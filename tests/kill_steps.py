"""Work that is killed (SIGKILL) before its first step, before its second, and so on, until one is done.

A step is a call of Ceph's bindings, or what Python's audit sees of files, programs and sockets.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from uuid import uuid4

from kilonova.rbd import bindings

Work = Callable[[], object]

_STEPS = {
    *("open", "os.rename", "os.remove", "os.truncate", "os.mkdir"),
    *("fcntl.flock", "fcntl.fcntl", "fcntl.ioctl", "socket.connect", "subprocess.Popen"),
}
_CALLS = {
    *("create", "clone", "remove", "trash_move", "trash_remove", "resize", "create_snap", "remove_snap"),
    *(
        "metadata_set",
        "metadata_remove",
        "rollback_to_snap",
        "protect_snap",
        "unprotect_snap",
        "write",
        "flush",
    ),
}


class Fuse:
    def __init__(self) -> None:
        self.left: int | None = None

    def step(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


class Counted:
    """An object of the bindings, whose calls are steps."""

    def __init__(self, real: Any, fuse: Fuse) -> None:
        self._real, self._fuse = real, fuse

    def __getattr__(self, name: str) -> Any:
        if name in _CALLS:
            self._fuse.step()
        return getattr(self._real, name)

    def __enter__(self) -> Counted:
        self._real.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._real.__exit__(*error)


def killed_before_each_step(folder: Path, begin: Callable[[str], AbstractContextManager[Work]]) -> None:
    """Print what was begun, one id a line: each is of a process of its own, in which ``begin`` of that id
    gives the work. Of files only those in ``folder`` count. For a process that does nothing else: it ends."""
    number = 0
    while True:
        number += 1
        ident = str(uuid4())
        print(ident, flush=True)
        child = os.fork()
        if child == 0:
            _attempt(folder, begin, ident, number)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status):
            sys.exit(os.WEXITSTATUS(status))


def _attempt(
    folder: Path, begin: Callable[[str], AbstractContextManager[Work]], ident: str, number: int
) -> None:
    status = 1
    try:
        fuse = Fuse()
        rbd, image = bindings.rbd, bindings.image
        bindings.rbd = lambda: Counted(rbd(), fuse)  # type: ignore[assignment]
        bindings.image = lambda *args, **more: Counted(image(*args, **more), fuse)  # type: ignore[assignment]

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event in _STEPS and _is_of(folder, event, arguments):
                fuse.step()

        sys.addaudithook(hook)
        with begin(ident) as work:
            fuse.left = number
            work()
            fuse.left = None
        status = 0
    finally:
        os._exit(status)


def _is_of(folder: Path, event: str, arguments: tuple[Any, ...]) -> bool:
    """Not of Python's own modules."""
    return event != "open" or str(arguments[0]).startswith(str(folder))
