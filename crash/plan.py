"""What is done to a cluster and when: drawn by chance, the same for the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

KILL, FREEZE, THAW, CUT, MEND = "kill -9", "SIGSTOP", "SIGCONT", "link cut", "link mended"
BROKER_STOPS, BROKER_STARTS = "broker stopped", "broker started"
DATABASE_RESTARTS, DATABASE_CRASHES = "database restarted", "database crashed and started"


class Fault(NamedTuple):
    """``at`` seconds after the beginning. ``target``: a service, if it is one's."""

    at: float
    kind: str
    target: str = ""


def plan(seed: int, seconds: float, services: Sequence[str], every: float = 1.0) -> list[Fault]:
    """A kill -9 ``every`` so many seconds; and once each, spread over the time: the broker away, the database
    restarted in both ways, a host cut off for half of it, and an agent stopped for a fifth."""
    random = Random(f"{seed}/plan")
    computes = [name for name in services if name.startswith("compute")]
    frozen, cut = random.sample(computes, 2)

    def within(first: float, last: float) -> float:
        return seconds * random.uniform(first, last)

    freezes, cuts, broker = within(0.05, 0.7), within(0.05, 0.45), within(0.05, 0.8)
    faults = [
        Fault(freezes, FREEZE, frozen),
        Fault(freezes + seconds / 5, THAW, frozen),
        Fault(cuts, CUT, cut),
        Fault(cuts + seconds / 2, MEND, cut),
        Fault(broker, BROKER_STOPS),
        Fault(broker + seconds / 10, BROKER_STARTS),
        Fault(within(0.1, 0.45), DATABASE_RESTARTS),
        Fault(within(0.55, 0.9), DATABASE_CRASHES),
    ]
    at = every
    while at < seconds:
        asleep = freezes <= at <= freezes + seconds / 5
        faults.append(
            Fault(at, KILL, random.choice([name for name in services if not (asleep and name == frozen)]))
        )
        at += every
    return sorted(faults)
