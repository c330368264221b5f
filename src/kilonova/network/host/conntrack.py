"""Connections that the kernel tracks in a namespace: which there are, and an end to some of them.

A translation is decided once, by a connection's first packet. So when a floating IP leads elsewhere, what was
translated by the old mapping must be forgotten, or it goes on.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from pyroute2 import NFCTSocket  # type: ignore[attr-defined]
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple

from kilonova.network.host import linux
from kilonova.network.host.router_plan import Flow


def forget(wrong: Callable[[Flow], bool]) -> int:
    """End the tracked IPv4 connections of the caller's namespace that are ``wrong``; how many there were."""
    ended = 0
    with linux.making("tracked connections"), NFCTSocket() as tracked:  # type: ignore[no-untyped-call]
        for entry in list(tracked.dump()):
            if entry["nfgen_family"] != socket.AF_INET:
                continue
            there, back = _tuple(entry, "CTA_TUPLE_ORIG"), _tuple(entry, "CTA_TUPLE_REPLY")
            flow = Flow(
                source=there.saddr, target=there.daddr, answers_from=back.saddr, answers_to=back.daddr
            )
            if wrong(flow):
                ended += _end(tracked, there)
    return ended


def _end(tracked: Any, there: Any) -> int:
    try:
        tracked.entry("del", tuple_orig=there)
    except NetlinkError as error:
        if error.code != 2:  # ENOENT: it ended by itself
            raise
        return 0
    return 1


def _tuple(entry: Any, name: str) -> Any:
    return NFCTAttrTuple.from_netlink(socket.AF_INET, entry.get_attr(name))  # type: ignore[no-untyped-call]
