"""Flows and words for Open vSwitch, as text; tests/contract/test_plug.py has what they do."""

from __future__ import annotations

import re

import pytest
from tests.system.host_network.lab import make_vif, subnet

from kilonova.config import Network
from kilonova.domain.network import AddressPair, binding_of
from kilonova.network.host.switch import flows, port_flows, words
from kilonova.network.host.switch.port_flows import Guarded, Seat

OWNER = 0x1122AABB
NETWORK = "5f9a4d8e-9d3a-4a3e-8a63-0a1f0f2f3b4c"


def test_a_port_may_send_only_what_is_its_own() -> None:
    pairs = [AddressPair(ip_address="10.80.0.64/26", mac_address="fa:16:3e:99:99:99")]
    vif = make_vif(subnet(), 5, NETWORK, allowed_address_pairs=pairs)
    made = port_flows.guarded_port(Guarded(vif, Seat(vif.tap, 7, 4094), 12))
    assert all("in_port=7" in flow.match for flow in made)
    passing = [flow.match for flow in made if flow.table == flows.GUARD and flow.actions != "drop"]
    assert all("vlan_tci=0x0000/0x1fff" in match and "dl_src=" in match for match in passing)
    addresses = {word for match in passing for word in match.split(",") if word.startswith("nw_src=")}
    assert addresses == {"nw_src=0.0.0.0", "nw_src=10.80.0.5", "nw_src=10.80.0.64/26"}


def test_one_mac_of_two_ports() -> None:
    """Who may use another's MAC too (VRRP) hears what is for it, by way of the own groups."""
    pair = AddressPair(ip_address="10.80.0.9", mac_address="00:00:5e:00:01:01")
    vifs = [make_vif(subnet(), n, NETWORK, security_groups=[], allowed_address_pairs=[pair]) for n in (5, 6)]
    made = port_flows.network(4094, [Guarded(vif, Seat(vif.tap, n, 4094), n) for n, vif in enumerate(vifs)])
    (shared,) = (flow for flow in made if "dl_dst=00:00:5e:00:01:01" in flow.match)
    assert shared.actions.count("clone(") == 2


def test_an_allowed_mac_stays_with_whose_it_is() -> None:
    """It may be the gateway's, or another host's."""
    pair = AddressPair(ip_address="10.80.0.9", mac_address="fa:16:3e:99:99:99")
    vifs = [make_vif(subnet(), n, NETWORK, allowed_address_pairs=[pair]) for n in (5, 6)]
    others = AddressPair(ip_address="10.80.0.9", mac_address=vifs[0].mac)
    vifs.append(make_vif(subnet(), 7, NETWORK, allowed_address_pairs=[others]))
    made = port_flows.network(4094, [Guarded(vif, Seat(vif.tap, n, 4094), n) for n, vif in enumerate(vifs)])
    onwards = {
        flow.match.partition("dl_dst=")[2]: flow.actions.endswith(flows.call(flows.REST))
        for flow in made
        if "dl_dst=fa" in flow.match
    }
    assert onwards == {"fa:16:3e:99:99:99": True} | {vif.mac: False for vif in vifs}


def test_many_ports_are_led_to_by_several_flows() -> None:
    """What a flow does fits in an OpenFlow message of 64 KiB; each port is led to once for each way."""
    pair = AddressPair(ip_address="10.80.0.200", mac_address="fa:16:3e:99:99:99")
    vif = make_vif(subnet(), 5, NETWORK, allowed_address_pairs=[pair], security_groups=[])
    ports = [Guarded(vif, Seat(f"tap{number}", number, 4094), number) for number in range(1, 1001)]
    made = port_flows.network(4094, ports)
    assert len({flow.place for flow in made}) == len(made)
    assert max(flow.actions.count("clone(") for flow in made) * 104 < 1 << 16
    own, shared, everybody = (
        [flow for flow in made if word in flow.match] for word in (vif.mac, "99", "01:00")
    )
    for first in (own, shared, everybody):
        assert len(first) == 1
        parts = [
            f"reg13={int(number, 16)}" for number in re.findall(r"load:(\w+)->NXM_NX_REG13", first[0].actions)
        ]
        called = [flow for flow in made if flow.table == flows.MANY and flow.match.split(",")[1] in parts]
        seats = [
            int(seat, 16) for flow in called for seat in re.findall(r"(0x\w+)->NXM_NX_REG2\[\]", flow.actions)
        ]
        assert sorted(seats) == list(range(1, 1001))


def test_flows_say_whose_they_are() -> None:
    value, mask = (int(part, 16) for part in flows.cookies(OWNER).split("/"))
    assert int(flows.cookie(OWNER), 16) & mask == value
    assert int(flows.cookie(OWNER + 1), 16) & mask != value
    flow = flows.Flow(110, 90, "udp", "drop")
    assert flows.text(OWNER, flow) == "cookie=0x1122aabb00000000,table=110,priority=90,udp,actions=drop"


def test_tags_are_read_and_others_words_are_not() -> None:
    said = {words.tag_key(NETWORK): "4094", "kilonova-vlan-x": "many", "others": "7", words.OWNER: "made"}
    assert words.tags(said) == {NETWORK: 4094}


def test_what_ports_show() -> None:
    assert binding_of("bridge", NETWORK)[1]["bridge_name"] == f"brq{NETWORK[:11]}"
    assert binding_of("ovs", NETWORK) == (
        "ovs",
        {"connectivity": "l2", "port_filter": True, "bridge_name": "br-int", "ovs_hybrid_plug": False},
    )


@pytest.mark.parametrize("text", ["tcp:127.0.0.1:6640", "unix:db.sock", "/run/db.sock", ""])
def test_the_switch_is_on_this_host(text: str) -> None:
    with pytest.raises(ValueError, match="ovsdb_connection"):
        Network(ovsdb_connection=text)
