"""Who is in which namespace: tests move their thread into networks of their own, and must come back.

What lives longer than a test (the guest image's build, a broker) is started at home(), for it may be asked
for first while a module's own host is up: there is no way to the outside there, and it goes with the module.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pyroute2 import netns

T = TypeVar("T")

_HOME = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
"""The network that this process was started in."""
_OWN = {kind: os.stat(f"/proc/self/ns/{kind}").st_ino for kind in ("net", "mnt")}


def at_home(work: Callable[[], T]) -> T:
    """``work()`` in the network that the tests were started in, whatever network this thread is in."""
    if os.stat("/proc/thread-self/ns/net").st_ino == _OWN["net"]:
        return work()
    with ThreadPoolExecutor(1, thread_name_prefix="at-home") as pool:
        return pool.submit(lambda: (netns.setns(_HOME), work())[1]).result()


def strays() -> list[str]:
    """The threads of this process that are in another network or mount namespace than it was started in."""
    return _elsewhere(Path("/proc/self"), _OWN)


def strays_of(pid: int) -> list[str]:
    """The threads of a process that are in another network or mount namespace than its first one."""
    process = Path("/proc", str(pid))
    return _elsewhere(process, {kind: (process / "ns" / kind).stat().st_ino for kind in _OWN})


def _elsewhere(process: Path, home: dict[str, int]) -> list[str]:
    found = []
    for task in (process / "task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended
            kinds = [kind for kind, inode in home.items() if (task / "ns" / kind).stat().st_ino != inode]
            if kinds:
                name = (task / "comm").read_text().strip()
                found.append(f"thread {task.name}, {name}: another {' and '.join(kinds)}")
    return found
