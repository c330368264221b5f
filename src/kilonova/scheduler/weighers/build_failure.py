"""BuildFailureWeigher: prefers the fewest builds failed since the last good one.

The multiplier is large and negative, as Nova's: a host that fails builds is the last resort.
"""

from __future__ import annotations

from kilonova.scheduler.rules import Hosts, Weigher


def _weigh(hosts: Hosts) -> list[float]:
    return [host.failed_builds for host in hosts]


BUILD_FAILURE = Weigher("BuildFailureWeigher", _weigh, multiplier=-1000000.0)
