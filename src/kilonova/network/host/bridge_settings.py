"""What a bridge of ours is told beyond what it is made with."""

from __future__ import annotations

import struct
from pathlib import Path

from kilonova.domain.errors import BuildFailed
from kilonova.network.host import rtnl

MOST_MACS = 16384
"""That a bridge learns, where the kernel has such a limit (Linux 6.7): a guest without port security may send
from any, and each takes the host's memory. What is for others goes to all ports of the bridge."""

_TRACKING = Path("/proc/sys/net/bridge")
"""There if the kernel has br_netfilter."""
_TRACKED, _TRACKED_SIX, _MOST_LEARNED = 36, 37, 49
"""linux/if_link.h: IFLA_BR_NF_CALL_IPTABLES, …_IP6TABLES, IFLA_BR_FDB_MAX_LEARNED."""
_NUMBER = struct.Struct("=I")


def is_tracked(bridge: rtnl.Link) -> bool:
    """What it passes on comes by the host's inet rules: that is where its connections are known."""
    return all(bridge.data.get(kind) == b"\1" for kind in (_TRACKED, _TRACKED_SIX))


def is_limited(bridge: rtnl.Link) -> bool:
    """It learns MOST_MACS and no more, or cannot be told."""
    return bridge.data.get(_MOST_LEARNED, _NUMBER.pack(MOST_MACS)) == _NUMBER.pack(MOST_MACS)


def ensure(bridge: rtnl.Link, tracked: bool) -> list[str]:
    """A line for each that was not so."""
    done, wanted = [], {}
    if not is_limited(bridge):
        wanted[_MOST_LEARNED] = _NUMBER.pack(MOST_MACS)
        done.append("limited in what it learns")
    if tracked and not is_tracked(bridge):
        if not _TRACKING.exists():
            raise BuildFailed(
                "the kernel has no br_netfilter, which security groups need: modprobe br_netfilter"
            )
        wanted |= {_TRACKED: b"\1", _TRACKED_SIX: b"\1"}
        done.append("connections tracked")
    if wanted:
        rtnl.change_bridge(bridge.index, wanted)
    return done
