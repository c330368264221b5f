"""The part of the network on each host: LinuxHost, and MemoryHost for the fake driver.

LinuxHost is loaded when asked for: its netlink library costs 15 MB and a third of a second, which a process
with fake hosts only need not pay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kilonova.network.host.memory import MemoryHost

if TYPE_CHECKING:
    from kilonova.network.host.host import LinuxHost

__all__ = ["LinuxHost", "MemoryHost"]


def __getattr__(name: str) -> Any:
    if name == "LinuxHost":
        from kilonova.network.host.host import LinuxHost

        return LinuxHost
    raise AttributeError(name)
