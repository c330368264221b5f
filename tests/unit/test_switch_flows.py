"""Flows and words for Open vSwitch, as text; tests/contract/test_plug.py has what they do."""

from __future__ import annotations

import pytest
from tests.system.host_network.lab import make_vif, subnet

from kilonova.config import Network
from kilonova.domain.network import AddressPair, binding_of
from kilonova.network.host.switch import flows, words

OWNER = 0x1122AABB
NETWORK = "5f9a4d8e-9d3a-4a3e-8a63-0a1f0f2f3b4c"


def test_a_port_may_send_only_what_is_its_own() -> None:
    pairs = [AddressPair(ip_address="10.80.0.64/26", mac_address="fa:16:3e:99:99:99")]
    vif = make_vif(subnet(), 5, NETWORK, allowed_address_pairs=pairs)
    text = flows.guard(OWNER, vif, 7)
    own = f"cookie=0x1122aabb{vif.port_id[:8]}"
    assert all(flow.startswith(f"{own},table=") and "in_port=7" in flow for flow in text)
    passing = [flow for flow in text if flow.endswith("actions=NORMAL")]
    assert all("vlan_tci=0x0000/0x1fff" in flow and "dl_src=" in flow for flow in passing)
    addresses = {word for flow in passing for word in flow.split(",") if word.startswith("nw_src=")}
    assert addresses == {"nw_src=0.0.0.0", "nw_src=10.80.0.5", "nw_src=10.80.0.64/26"}
    assert text[-1] == f"{own},table=110,in_port=7,priority=0,actions=drop"


def test_without_port_security_there_are_none() -> None:
    assert flows.guard(OWNER, make_vif(subnet(), 5, NETWORK, port_security=False), 7) == []


def test_cookies_say_whose_a_flow_is() -> None:
    value, mask = (int(part, 16) for part in flows.cookies(OWNER).split("/"))
    vif = make_vif(subnet(), 5, NETWORK)
    for cookie in (flows.cookie(OWNER), flows.cookie(OWNER, vif.port_id)):
        assert int(cookie, 16) & mask == value
    assert int(flows.cookie(OWNER + 1), 16) & mask != value


def test_tags_are_read_and_others_words_are_not() -> None:
    said = {words.tag_key(NETWORK): "4094", "kilonova-vlan-x": "many", "others": "7", words.OWNER: "made"}
    assert words.tags(said) == {NETWORK: 4094}


def test_what_ports_show() -> None:
    assert binding_of("bridge", NETWORK)[1]["bridge_name"] == f"brq{NETWORK[:11]}"
    assert binding_of("ovs", NETWORK) == (
        "ovs",
        {"connectivity": "l2", "port_filter": False, "bridge_name": "br-int", "ovs_hybrid_plug": False},
    )


@pytest.mark.parametrize("text", ["tcp:127.0.0.1:6640", "unix:db.sock", "/run/db.sock", ""])
def test_the_switch_is_on_this_host(text: str) -> None:
    with pytest.raises(ValueError, match="ovsdb_connection"):
        Network(ovsdb_connection=text)
