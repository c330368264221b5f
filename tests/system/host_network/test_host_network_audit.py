"""Rules that others changed behind our back are found, by what they do, and set right."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from tests.system.host_network.lab import Lab, make_vif, run, subnet

from kilonova.domain.network import AddressPair
from kilonova.network.host import audit, firewall, linux, names, nft

pytestmark = pytest.mark.system

OWNERS = {"10.80.0.5": str(uuid4()), "fd00::5": str(uuid4())}


def tables() -> dict[str, str]:
    """Family → name of the host's tables."""
    listed = json.loads(run("nft", "-j", "list", "tables"))["nftables"]
    return {entry["table"]["family"]: entry["table"]["name"] for entry in listed if "table" in entry}


def rules(*table: str) -> list[dict[str, Any]]:
    listed = json.loads(run("nft", "-j", "list", "table", *table))["nftables"]
    return [entry["rule"] for entry in listed if "rule" in entry]


def alter_each_rule(*table: str) -> list[list[str]]:
    """For each rule the command that leaves it its place and its comment, and nothing of its meaning."""
    commands = []
    for rule in rules(*table):
        place = [*table, rule["chain"], "handle", str(rule["handle"])]
        other = ["meta", "mark", "7", "accept", "comment", json.dumps(rule["comment"])]
        commands.append(["nft", "replace", "rule", *place, *other])
    return commands


def is_found_and_mended(lab: Lab, damage: list[str], what: str) -> None:
    healthy = run("nft", "list", "ruleset")
    run(*damage)
    assert run("nft", "list", "ruleset") != healthy, damage
    assert lab.host.repair() == [what], damage
    assert lab.host.repair() == [], damage
    after = run("nft", "list", "ruleset")
    assert sorted(after.splitlines()) == sorted(healthy.splitlines()), damage


def test_every_rule_that_says_something_else(own_host: None) -> None:
    pairs = [AddressPair(ip_address="10.80.0.64/26"), AddressPair(ip_address="10.80.1.1")]
    network, of = str(uuid4()), subnet()
    vifs = [
        make_vif(of, 5, network, allowed_address_pairs=pairs),
        make_vif(of, 6, network, port_security=False),
    ]
    for table in (
        firewall.bridge_table("kilonova-test", vifs, {"knb-1": "02:00:00:00:00:01"}),
        firewall.host_table("kilonova-test", ["knt-1", "knt-2"], {"brq-1": 7}, "198.18.0.0/15", nat=True),
        firewall.host_table("kilonova-test", ["knt-1"], {"brq-1": 7}, "198.18.0.0/15", False, {7: OWNERS}),
    ):
        nft.apply(nft.replace(table))
        for which in range(sum(len(chain.rules) for chain in table.chains)):
            assert audit.problems(table) == []
            run(*alter_each_rule(table.family, table.name)[which])  # by handles, new after each load
            assert len(audit.problems(table)) == 1
            nft.apply(nft.replace(table))
        nft.apply(nft.delete_table(table.family, table.name))


def test_what_is_around_the_rules(lab: Lab) -> None:
    guest = lab.guest(5)
    lab.host.repair()
    name = tables()["bridge"]
    rules_of = f"firewall rules of bridge {name} were not as they should be"
    sets_of = f"firewall sets of bridge {name} were not as they should be"
    chain = f"port-{guest.vif.port_id}"
    tap = json.dumps(guest.vif.tap)
    at = ["bridge", name]
    passes = f"bridge {name} guards {{ {tap} :"
    for damage, what in [
        (["nft", "insert", "rule", *at, chain, "accept"], rules_of),
        (["nft", "add", "chain", *at, "prerouting", "{ policy drop; }"], rules_of),
        (["nft", "add", "chain", *at, "more"], rules_of),
        (["nft", "add", "table", *at, "{ flags dormant; }"], rules_of),
        (["nft", "add", "element", *at, "ports", '{ "other" }'], sets_of),
        (["nft", "delete", "element", *at, "guards", f"{{ {tap} : jump {chain} }}"], sets_of),
        (["nft", f"delete element {passes} jump {chain} }}; add element {passes} accept }}"], sets_of),
    ]:
        is_found_and_mended(lab, damage, what)


def test_a_rule_inside_a_network(lab: Lab) -> None:
    guest = lab.guest(5)
    lab.host.repair()
    assert lab.host.repair() == []
    space = names.namespace(guest.vif.network_id)
    for damage in linux.inside(space, lambda: alter_each_rule("ip", "kilonova")):
        linux.inside(space, lambda damage=damage: run(*damage))  # type: ignore[misc]
        assert lab.host.repair() == [
            f"network {guest.vif.network_id}: firewall rules of ip kilonova were not as they should be"
        ]
        assert lab.host.repair() == []


def test_nothing_is_loaded_on_the_host_to_find_out(lab: Lab) -> None:
    lab.guest(5)
    run("nft", "add", "table", "ip", "others")  # so that all rules are looked at
    before = run("nft", "-j", "list", "ruleset")
    assert lab.host.repair() == []
    assert run("nft", "-j", "list", "ruleset") == before
    run("nft", "delete", "table", "ip", "others")
