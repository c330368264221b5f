"""What ``kilonova doctor`` says of the networks of guests on this host: what is wrong with them now, by the
host's own records, and what its agent found and mended lately. Looks, and changes nothing."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from kilonova import config
from kilonova.domain.clock import now
from kilonova.network.host import findings
from kilonova.network.host.findings import Found

_LATELY = 86400.0
"""Seconds."""


def hosts(state: Path) -> dict[str, Path]:
    """Name → folder of the network of each host of that state folder."""
    return {path.parent.name: path for path in sorted(state.glob("hosts/*/network"))}


def problems(of: dict[str, Path], options: config.Network) -> list[str]:
    # The netlink library costs a third of a second.
    from kilonova.network.host import look

    return [line for folder in of.values() for line in look.problems(folder, options)]


def lately(state: Path) -> list[tuple[str, Found]]:
    """Host and finding, the latest last."""
    since = now() - _LATELY
    all_of = [
        (name, one) for name, folder in hosts(state).items() for one in findings.read(folder / findings.FILE)
    ]
    return sorted((one for one in all_of if one[1].last >= since), key=lambda one: one[1].last)


def when(one: Found) -> str:
    last = datetime.fromtimestamp(one.last).astimezone().isoformat(" ", "seconds")
    if one.times == 1:
        return last
    first = datetime.fromtimestamp(one.first).astimezone().isoformat(" ", "seconds")
    return f"{one.times} times from {first} to {last}"
