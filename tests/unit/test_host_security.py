"""The rules that a host loads for security groups mean what the groups say."""

from __future__ import annotations

import time
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as some

from kilonova.domain.network import NetworkState, PortSecurity, Vif
from kilonova.domain.security_groups import ICMP, ICMPV6, IPV4, IPV6, WITH_PORTS, Filter
from kilonova.network.host import firewall, nft, security
from kilonova.network.host.knowledge import Knowledge
from kilonova.network.host.verdict import Packet, is_always_allowed, passes

PORT, GROUP, OTHER = (f"0000000{n}-0000-4000-8000-000000000000" for n in range(3))
VIF = Vif(port_id=PORT, network_id=OTHER, mac="fa:16:3e:00:00:01", security_groups=[GROUP])

_ADDRESSES = {
    IPV4: ["10.0.0.1", "10.0.0.2", "10.0.1.1", "192.0.2.1"],
    IPV6: ["fd00::1", "fd00::2", "fd00:1::1"],
}
_PREFIXES = {
    IPV4: ["10.0.0.0/24", "10.0.0.2/32", "0.0.0.0/0"],
    IPV6: ["fd00::/64", "fd00::2/128", "::/0"],
}


@some.composite
def filters(draw: Any) -> Filter:
    ethertype = draw(some.sampled_from([IPV4, IPV6]))
    protocol = draw(some.sampled_from([None, 6, 17, 47, ICMP, ICMPV6]))
    low = high = None
    if protocol in WITH_PORTS and draw(some.booleans()):
        low, high = sorted(draw(some.tuples(some.integers(1, 4), some.integers(1, 4))))
    elif protocol in (ICMP, ICMPV6):
        low = draw(some.none() | some.integers(0, 2))
        high = None if low is None else draw(some.none() | some.integers(0, 1))
    remote = draw(some.sampled_from(["anybody", "prefix", "group"]))
    return Filter(
        direction=draw(some.sampled_from(["ingress", "egress"])),
        ethertype=ethertype,
        protocol=protocol,
        port_min=low,
        port_max=high,
        remote_prefix=draw(some.sampled_from(_PREFIXES[ethertype])) if remote == "prefix" else None,
        remote_group=OTHER if remote == "group" else None,
    )


@some.composite
def packets(draw: Any) -> Packet:
    ethertype = draw(some.sampled_from([IPV4, IPV6]))
    protocol = draw(some.sampled_from([6, 17, 47, ICMP, ICMPV6]))
    address = some.sampled_from(_ADDRESSES[ethertype])
    return Packet(
        source=draw(address),
        destination=draw(address),
        protocol=protocol,
        port=draw(some.integers(1, 5)) if protocol in WITH_PORTS else None,
        icmp=draw(some.tuples(some.integers(0, 3), some.integers(0, 2)))
        if protocol in (ICMP, ICMPV6)
        else None,
    )


@given(
    some.lists(filters(), max_size=4),
    packets(),
    some.lists(some.sampled_from(_ADDRESSES[IPV4] + _ADDRESSES[IPV6] + ["10.0.0.0/30"]), max_size=3),
    some.sampled_from(["ingress", "egress"]),
)
def test_the_rules_let_pass_what_the_groups_let_pass(
    rules: list[Filter], packet: Packet, members: list[str], direction: str
) -> None:
    sets = {one.name: one for one in security.member_sets(OTHER, members)}
    chains = {chain.name: chain for chain in security.group_chains(GROUP, rules) + security.port_chains(VIF)}
    verdict = _run(chains, security.port_chain_name(PORT, direction), packet, sets)
    assert (verdict == "accept") == passes(packet, direction, rules, {OTHER: members})


def _run(chains: dict[str, nft.Chain], name: str, packet: Packet, sets: dict[str, nft.Set]) -> str | None:
    """What the kernel would do, told by its documentation: the verdict, or None at a chain's end."""
    for rule in chains[name].rules:
        for expression in rule.expressions:
            ((kind, said),) = expression.items()
            if kind == "match":
                if not _matches(said, packet, sets):
                    break
            elif kind == "jump":
                if verdict := _run(chains, said["target"], packet, sets):
                    return verdict
            else:
                return kind
    return None


def _matches(said: dict[str, Any], packet: Packet, sets: dict[str, nft.Set]) -> bool:
    left, right = said["left"], said["right"]
    version = ip_address(packet.source).version
    if left == nft.meta("l4proto"):
        return bool(packet.protocol == right)
    if "base" in left["payload"]:  # the first or second byte after the IP header
        assert packet.icmp is not None, "asked before it is known"
        return bool(packet.icmp[left["payload"]["offset"] // 8] == right)
    protocol, field = left["payload"]["protocol"], left["payload"]["field"]
    if (protocol, field) == ("ether", "type"):
        return bool(right == ("ip" if version == 4 else "ip6"))
    if protocol == "th":
        low, high = right["range"] if isinstance(right, dict) else (right, right)
        return packet.port is not None and low <= packet.port <= high
    assert protocol == ("ip" if version == 4 else "ip6"), "asked before it is known"
    address = ip_address(packet.source if field == "saddr" else packet.destination)
    if isinstance(right, str) and right.startswith("@"):
        return any(address in ip_network(text) for text in sets[right[1:]].elements)
    network = right["prefix"]
    return address in ip_network(f"{network['addr']}/{network['len']}")


def test_five_hundred_members_are_a_set() -> None:
    four, six = security.member_sets(OTHER, [f"10.0.{n // 250}.{n % 250}" for n in range(0, 1000, 2)])
    assert (len(four.elements), len(six.elements)) == (500, 0)


def test_members_do_not_overlap() -> None:
    """nft refuses a set whose ranges do."""
    four, six = security.member_sets(
        OTHER, ["10.0.0.1", "10.0.0.0/24", "10.0.0.7/24", "fd00::1", "fd00::/64"]
    )
    assert (list(four.elements), list(six.elements)) == (["10.0.0.0/24"], ["fd00::/64"])


def test_a_port_without_groups_lets_nothing_pass_and_one_without_security_has_no_chains() -> None:
    def chains(**changed: Any) -> list[str]:
        vif = Vif(port_id=PORT, network_id=OTHER, mac="fa:16:3e:00:00:01", **changed)
        return [chain.name for chain in firewall.bridge_table("t", [vif], {}).chains if PORT in chain.name]

    assert chains(security_groups=[]) == [f"port-{PORT}", f"ingress-{PORT}", f"egress-{PORT}"]
    assert chains(security_groups=None) == [f"port-{PORT}"]
    assert chains(security_groups=[GROUP], port_security=False) == []


def test_what_is_always_allowed() -> None:
    def allowed(source: str, destination: str, protocol: int, port: int) -> bool:
        packet = Packet(source=source, destination=destination, protocol=protocol, port=port)
        return is_always_allowed(packet, {"10.0.0.2"})

    assert allowed("0.0.0.0", "255.255.255.255", 17, 67)
    assert allowed("10.0.0.1", "10.0.0.2", 17, 67)
    assert allowed("10.0.0.2", "10.0.0.1", 17, 68)
    assert allowed("10.0.0.1", "169.254.169.254", 6, 80)
    assert not allowed("10.0.0.1", "169.254.169.254", 6, 22)
    assert not allowed("10.0.0.1", "10.0.0.3", 17, 67)
    assert not allowed("10.0.0.3", "10.0.0.1", 17, 68)


def _state(*rules: Filter, groups: tuple[str, ...] = (GROUP,)) -> NetworkState:
    port = PortSecurity(port_id=PORT, port_security=True, security_groups=list(groups))
    return NetworkState(ports=[port], groups={GROUP: list(rules)}, members={OTHER: ["10.0.0.1"]})


def test_what_is_known_is_there_after_a_kill(tmp_path: Path) -> None:
    rule = Filter(direction="ingress", ethertype=IPV4, remote_group=OTHER)
    Knowledge(tmp_path).learn(_state(rule), time.monotonic())
    again = Knowledge(tmp_path)
    assert (again.now.filters(GROUP), again.now.members(OTHER)) == ([rule], ["10.0.0.1"])
    assert again.now.applied(Vif(port_id=PORT, network_id=OTHER, mac="x")).security_groups == [GROUP]
    assert again.now.using([VIF], {OTHER}) == {PORT}
    again.forget(PORT)
    assert Knowledge(tmp_path).now.filters(GROUP) == []


def test_an_older_answer_that_comes_later_changes_nothing(tmp_path: Path) -> None:
    known = Knowledge(tmp_path)
    newer, older = (Filter(direction=way, ethertype=IPV4) for way in ("ingress", "egress"))
    known.learn(_state(newer), 2.0)
    known.learn(_state(older), 1.0)
    assert known.now.filters(GROUP) == [newer]


def test_a_port_that_left_while_an_answer_was_under_way_stays_away(tmp_path: Path) -> None:
    known = Knowledge(tmp_path)
    told = _state()
    known.learn(told, time.monotonic())
    asked = time.monotonic()
    known.forget(PORT)
    known.learn(told, asked)
    assert (known.now.ports, known.now.groups) == ({}, {})
    known.learn(told, time.monotonic())
    assert list(known.now.ports) == [PORT], "it is plugged again"


def test_a_damaged_record_closes_and_does_not_stop(tmp_path: Path) -> None:
    (tmp_path / "security.json").write_text("{")
    assert Knowledge(tmp_path).now.filters(GROUP) == []


def test_ports_that_will_be_plugged_use_their_groups(tmp_path: Path) -> None:
    """A rule that changes while the server is built reaches them before anything else does."""
    known = Knowledge(tmp_path)
    to_other = Filter(direction="ingress", ethertype=IPV4, remote_group=OTHER)
    port = PortSecurity(port_id=PORT, port_security=True, security_groups=[GROUP])
    known.learn(NetworkState(ports=[port], groups={GROUP: [to_other]}), 1.0)
    assert known.now.using([], {GROUP}) == known.now.using([VIF], {OTHER}) == {PORT}
    assert known.now.using([VIF], {PORT}) == set()
    known.forget(PORT)
    assert known.now.using([], {GROUP}) == set()
