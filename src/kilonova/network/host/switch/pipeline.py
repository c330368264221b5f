"""The flows that are the same whatever ports and groups there are. Pure; flows.py draws the tables."""

from __future__ import annotations

from functools import cache

from kilonova.network.host.plan import METADATA_ADDRESS
from kilonova.network.host.switch.flows import (
    ACCEPTED,
    ARRIVED,
    CLASSIFY,
    COMING,
    ENTERING,
    FORWARD,
    GATE,
    INWARDS,
    LEAVING,
    PORT,
    REST,
    SEAT_BITS,
    SENT,
    UNTRACKED,
    ZONE_BITS,
    Flow,
    both,
    call,
    is_set,
    put,
)

_DELIVER = f"output:{SEAT_BITS}"
_HEARD = [130, 131, 132, 135, 136, 143]
"""Types of ICMPv6: listeners of multicast, and neighbours' solicitation and advertisement."""
_ROUTER_ADVERTISEMENT = 134
_TRACKED = ["tcp", "udp", "icmp", "tcp6", "udp6", "icmp6"]
"""What every switch can track. One in user space calls all that it cannot invalid."""


@cache
def pipeline() -> tuple[Flow, ...]:
    return (
        *_asking(SENT, answers=INWARDS, questions=0, then=LEAVING),
        *_passing(LEAVING, call(FORWARD)),
        Flow(FORWARD, 0, "", call(REST)),
        Flow(REST, 0, "", "NORMAL"),
        *_coming(),
        *_asking(ARRIVED, answers=0, questions=INWARDS, then=ENTERING),
        *_passing(ENTERING, _DELIVER),
        *_always(),
    )


def base() -> Flow:
    """In a bridge that passes nothing by itself: it is a switch."""
    return Flow(CLASSIFY, 0, "", "NORMAL")


def _asking(table: int, *, answers: int, questions: int, then: int) -> list[Flow]:
    """The rules for the way that the connection's first packet went."""
    of = INWARDS | UNTRACKED

    def ask(flags: int) -> str:
        return f"{put(flags, of)},{call(PORT, then)}"

    return [
        *(Flow(table, 30, f"ct_state=+trk+inv,{kind}", "drop") for kind in _TRACKED),
        Flow(table, 20, "ct_state=+trk+inv", ask(questions | UNTRACKED)),
        Flow(table, 10, "ct_state=+trk-inv+rpl", ask(answers)),
        Flow(table, 10, "ct_state=+trk-inv-rpl", ask(questions)),
    ]


def _passing(table: int, then: str) -> list[Flow]:
    accepted = is_set(ACCEPTED)
    return [
        *(
            Flow(table, 20, match, f"ct(commit,zone={ZONE_BITS}),{then}")
            for match in both(f",{accepted},ct_state=+trk+new")
        ),
        Flow(table, 10, accepted, then),
    ]


def _coming() -> list[Flow]:
    gate = is_set(GATE)
    return [
        Flow(COMING, 30, "arp", _DELIVER),
        Flow(COMING, 30, f"udp,{gate},tp_src=67,tp_dst=68", _DELIVER),
        *(Flow(COMING, 30, f"icmp6,icmp_type={kind}", _DELIVER) for kind in _HEARD),
        Flow(COMING, 30, f"udp6,{gate},tp_src=547,tp_dst=546", _DELIVER),
        # Guarded ports send none (port_flows.py).
        Flow(COMING, 30, f"icmp6,icmp_type={_ROUTER_ADVERTISEMENT}", _DELIVER),
        *(Flow(COMING, 10, match, f"ct(table={ARRIVED},zone={ZONE_BITS})") for match in both("")),
    ]


def _always() -> list[Flow]:
    """What goes out of a guest whatever its groups say, beside what GUARD lets pass without asking them."""
    outwards = f"{is_set(0, INWARDS | UNTRACKED)},ct_state=+trk-inv"
    accept = put(ACCEPTED, ACCEPTED)
    metadata = f"ct_nw_dst={METADATA_ADDRESS},ct_nw_proto=6,ct_tp_dst=80"
    return [
        Flow(PORT, 20, f"ip,{outwards},{metadata}", accept),
    ]
