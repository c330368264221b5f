"""The flows of security groups mean what the groups say: as nftables' rules do (test_host_security.py)."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import Any

from hypothesis import given
from hypothesis import strategies as some
from tests.unit.test_host_security import _ADDRESSES, GROUP, OTHER, filters, packets

from kilonova.domain.security_groups import ICMP, ICMPV6, IPV4, Filter
from kilonova.network.host.switch import group_flows
from kilonova.network.host.switch.flows import ACCEPTED, INWARDS, UNTRACKED, Flow, number
from kilonova.network.host.switch.flows import GROUP as CALLED
from kilonova.network.host.verdict import Packet, passes

_ACTION = re.compile(
    r"resubmit\(,(?P<table>\d+)\)"
    r"|load:(?P<value>0x[0-9a-f]+)->NXM_NX_(?P<register>\w+)\[(?P<bits>[\d.]*)\]"
    r"|move:(?P<source>\w+)\[\]->NXM_NX_(?P<target>\w+)\[\]"
)
_FIELDS = {f"NXM_NX_CT_NW_{end}": f"ct_nw_{end.lower()}" for end in ("SRC", "DST")} | {
    f"NXM_NX_CT_IPV6_{end}": f"ct_ipv6_{end.lower()}" for end in ("SRC", "DST")
}
_FIELDS |= {f"NXM_OF_IP_{end}": f"nw_{end.lower()}" for end in ("SRC", "DST")}
_FIELDS |= {f"NXM_NX_IPV6_{end}": f"ipv6_{end.lower()}" for end in ("SRC", "DST")}


@given(
    some.lists(filters(), max_size=4),
    packets(),
    some.lists(some.sampled_from(_ADDRESSES[IPV4] + _ADDRESSES["IPv6"] + ["10.0.0.0/30"]), max_size=3),
    some.sampled_from(["ingress", "egress"]),
    some.booleans(),
)
def test_the_flows_let_pass_what_the_groups_let_pass(
    rules: list[Filter], packet: Packet, members: list[str], direction: str, tracked: bool
) -> None:
    tracked = tracked or packet.protocol in (6, 17, ICMP, ICMPV6)
    flows = group_flows.group(GROUP, rules) + group_flows.members(OTHER, members)
    switch = _Switch(flows, packet, tracked=tracked)
    switch.state["reg3"] = (INWARDS if direction == "ingress" else 0) | (0 if tracked else UNTRACKED)
    switch.state["xxreg1"] = int(number(GROUP), 16)
    switch.call(CALLED)
    accepted = bool(switch.state["reg3"] & ACCEPTED)
    assert accepted == passes(packet, direction, rules, {OTHER: members})


class _Switch:
    """What it would do with calls, told by ovs-actions(7) and ovs-fields(7)."""

    def __init__(self, flows: list[Flow], packet: Packet, *, tracked: bool) -> None:
        self._flows = flows
        six = ip_address(packet.source).version == 6
        self._ip = "ipv6" if six else "ip"
        ct, kind = "ct_" if tracked else "", "ipv6" if six else "nw"
        self.state: dict[str, int] = dict.fromkeys(("xxreg1", "xxreg2", "xxreg3", "reg3", "reg12"), 0)
        self._packet: dict[str, Any] = {
            f"{ct}{kind}_src": packet.source,
            f"{ct}{kind}_dst": packet.destination,
            f"{ct}nw_proto": packet.protocol,
            f"{ct}tp_dst": packet.icmp[1] if packet.icmp else packet.port,
            f"{ct}tp_src": packet.icmp[0] if packet.icmp else 40000,
            "ct_state": "+trk-inv" if tracked else "+trk+inv",
        }

    def call(self, table: int) -> None:
        fitting = [flow for flow in self._flows if flow.table == table and self._fits(flow.match)]
        if not fitting:
            return
        highest = max(flow.priority for flow in fitting)
        (actions,) = {flow.actions for flow in fitting if flow.priority == highest}
        assert _ACTION.sub("", actions).strip(",") == "", actions
        for action in _ACTION.finditer(actions):
            self._act(action)

    def _act(self, action: re.Match[str]) -> None:
        if action["table"]:
            self.call(int(action["table"]))
        elif action["source"]:
            target = action["target"].lower()
            self.state[target] = int(ip_address(self._packet[_FIELDS[action["source"]]]))
        else:
            register = action["register"].lower()
            first, _, last = action["bits"].partition("..")
            low, high = int(first), int(last or first)
            mask = (1 << (high + 1)) - (1 << low)
            self.state[register] = self.state[register] & ~mask | int(action["value"], 16) << low

    def _fits(self, match: str) -> bool:
        return all(self._is(*word.partition("=")) for word in match.split(","))

    def _is(self, field: str, _: str, value: str) -> bool:
        if field in ("ip", "ipv6"):
            return field == self._ip
        have = self.state.get(field, self._packet.get(field))
        if have is None or field == "ct_state":
            return bool(have == value)
        if field.endswith(("nw_src", "nw_dst", "ipv6_src", "ipv6_dst")):
            return ip_address(have) in ip_network(value)
        wanted, _, mask = value.partition("/")
        return int(have) & int(mask or "-1", 0) == int(wanted, 0)


@given(some.tuples(some.integers(0, 65535), some.integers(0, 65535)).map(sorted))
def test_ranges_are_masks(ends: list[int]) -> None:
    low, high = ends
    masks = group_flows.masks(low, high)
    assert len(masks) <= 30
    assert sum(0x10000 - mask for _, mask in masks) == high - low + 1
    for port in {low, high, (low + high) // 2, max(0, low - 1), min(65535, high + 1)}:
        assert any(port & mask == value for value, mask in masks) == (low <= port <= high)


def test_no_flow_for_each_port_and_member() -> None:
    rule = Filter(
        direction="ingress", ethertype=IPV4, protocol=6, port_min=1, port_max=1023, remote_group=OTHER
    )
    members = group_flows.members(OTHER, [f"10.0.{n // 250}.{n % 250}" for n in range(0, 1000, 2)])
    assert (len(members), len(group_flows.group(GROUP, [rule]))) == (500, 2 + 10)


def test_ports_that_the_switch_cannot_see() -> None:
    rule = Filter(direction="ingress", ethertype=IPV4, protocol=136, port_min=1, port_max=2)
    assert len(group_flows.group(GROUP, [rule])) == 1, "the group itself, and no rule"


def test_numbers_and_not_texts_are_in_flows() -> None:
    scoped = Filter(direction="ingress", ethertype="IPv6", remote_prefix="fe80::%eth0/64")
    assert "%" not in "".join(flow.match for flow in group_flows.group(GROUP, [scoped]))
