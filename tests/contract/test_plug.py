"""What every plug keeps: bridge, ovs-hybrid, ovs. Guests are namespaces; kernel and switch are the real ones.

What is the same for all plugs (DHCP's options, NAT, metadata's words) is tested with one, in
tests/system/host_network.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from tests.openvswitch import accepts, installed
from tests.plugs import KINDS, PlugLab, config_of, host_with, plug_lab
from tests.system.host_network.lab import (
    COMES,
    Guest,
    Lab,
    Service,
    arp,
    eventually,
    ipv4,
    make_vif,
    run,
    snapshot,
    subnet,
    what_arrives,
)
from tests.system.host_network.test_host_network_security import (
    CLIENTS,
    OUT,
    WEB,
    Two,
    passes,
    tcp,
)
from tests.system.host_network.test_host_network_spoofing import (
    BROADCAST,
    IP,
    OTHER_IP,
    PEER,
    bad_frames,
    good,
)

from kilonova.config import unix_socket
from kilonova.domain.errors import BuildFailed, KilonovaError
from kilonova.domain.network import AddressPair, NetworkState, PlugKind, PortSecurity, Vif, VifAddress
from kilonova.domain.security_groups import IPV4, Filter
from kilonova.network.host import linux, look, names
from kilonova.network.host.plug import on_switch
from kilonova.network.host.switch import Switch, openflow

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="changes the host's network"),
    pytest.mark.skipif(not installed(), reason="Open vSwitch is not installed"),
]

KILLED = Path(__file__).parents[1] / "system" / "host_network" / "killed_at_any_act.py"
SWITCHED: tuple[PlugKind, ...] = ("ovs-hybrid", "ovs")


@pytest.fixture(params=KINDS)
def lab(request: pytest.FixtureRequest) -> Iterator[PlugLab]:
    with plug_lab(request.param) as one:
        yield one


@pytest.fixture(params=SWITCHED)
def switched(request: pytest.FixtureRequest) -> Iterator[PlugLab]:
    """A plug that uses the switch."""
    with plug_lab(request.param) as one:
        yield one


def arrives(
    sender: Guest, receiver: Guest, frames: list[bytes], last: bytes, must: Sequence[bytes] = ()
) -> list[bytes]:
    """A switch in user space puts packets of one flow together, so they overtake others."""
    return what_arrives(sender, receiver, frames, last, quiet=0.2, must=must)


def port_on_switch(lab: PlugLab, vif: Vif) -> str:
    return names.qvo(vif.port_id) if lab.kind == "ovs-hybrid" else vif.tap


def tag_of(lab: PlugLab, vif: Vif) -> int:
    """The local tag of its network. A port that only flows lead to has none of its own."""
    return lab.switch.tag(
        port_on_switch(lab, vif) if lab.kind == "ovs-hybrid" else names.gate(vif.network_id)
    )


def answers(asker: Guest, other: Guest, seconds: float = COMES) -> bool:
    """Whether TCP between the two works, both ways and with whole segments."""
    service = Service(other.inside, other.ip)
    try:
        return asker.reaches(other.ip, service.port, seconds=seconds) == asker.ip
    finally:
        service.close()


def test_guests_of_a_network_reach_each_other_and_no_others(lab: PlugLab) -> None:
    one, two = lab.guest(5), lab.guest(6)
    stranger = lab.guest(7, network_id=str(uuid4()))
    lease = one.dhcp(lab.folder)
    assert lease["ip"] == one.ip
    for guest in (two, stranger):
        guest.set_address()
    assert answers(one, two)
    assert answers(two, one)
    assert not answers(stranger, two, 2)
    assert one.get("/nothing")[0] == 404  # the metadata service, over TCP
    frames = [
        ipv4((stranger.vif.mac, BROADCAST), stranger.ip, PEER),
        arp(stranger.vif.mac, (stranger.vif.mac, stranger.ip), PEER),
    ]
    assert crosses(stranger, two, frames, one) == []
    assert crosses(one, two, [good(one)], stranger) == [good(one)]
    assert lab.host.repair() == [] or lab.host.repair() == []


def crosses(sender: Guest, receiver: Guest, frames: list[bytes], other: Guest) -> list[bytes]:
    """Those of the sender's that the receiver has heard before, and a while after, it hears of the other."""
    sign = arp(other.vif.mac, (other.vif.mac, other.ip), "10.80.0.99")
    with receiver.raw() as into, sender.raw() as out, other.raw() as others:
        for frame in frames:
            out.send(frame)
        heard = []
        others.send(sign)
        near = other.vif.network_id == receiver.vif.network_id
        must = {sign} if near else set(frames)  # without the sign nothing else says that it is over
        with suppress(TimeoutError):
            while not must <= set(heard):
                heard.append(into.recv(2048))
            into.settimeout(0.5)
            while True:
                heard.append(into.recv(2048))
    assert (sign in heard) == near
    return [frame for frame in frames if frame in heard]


def test_the_host_is_not_reached_past_the_switch(lab: PlugLab) -> None:
    """Where Open vSwitch works in user space, the host's own stack hears each of its ports too."""
    guest, address = lab.guest(5, port_security=False), "203.0.113.1"
    guest.set_address()
    run("ip", "address", "add", f"{address}/32", "dev", "lo")
    service = Service(lambda make: make(), "0.0.0.0")
    with guest.raw() as one:
        one.settimeout(0.5)
        one.send(arp(guest.vif.mac, (guest.vif.mac, guest.ip), address))
        heard = []
        with suppress(TimeoutError):
            while True:
                heard.append(one.recv(2048))
    answers = [frame for frame in heard if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\x00\x02"]
    assert answers == []
    guest.run("ip", "route", "add", address, "dev", "eth0")
    reached = {}
    for link in json.loads(run("ip", "-j", "link")):
        guest.run("ip", "neigh", "replace", address, "lladdr", link["address"], "dev", "eth0")
        reached[link["ifname"]] = guest.reaches(address, service.port)
    service.close()
    run("ip", "address", "del", f"{address}/32", "dev", "lo")
    assert {name for name, answer in reached.items() if answer} == set()


def test_a_guest_that_poses_as_another_is_not_heard(lab: PlugLab) -> None:
    guest, peer = lab.guest(5), lab.guest(6)
    bad = bad_frames(guest.vif.mac)
    arrived = arrives(guest, peer, list(bad.values()), good(guest))
    assert [what for what, frame in bad.items() if frame in arrived] == []
    own = guest.vif.mac
    fine = [
        good(guest),
        arp(own, (own, IP), PEER),
        arp(own, (own, "0.0.0.0"), IP),
        ipv4((own, BROADCAST), "0.0.0.0", "255.255.255.255", ports=(68, 67)),
    ]
    assert arrives(guest, peer, fine, ipv4((own, BROADCAST), IP, PEER, text=b"last"), fine) == fine


def test_allowed_address_pairs_and_none_of_it_without_port_security(lab: PlugLab) -> None:
    other_mac = "fa:16:3e:99:99:98"
    third = lab.guest(7, port_security=False)
    pairs = [
        AddressPair(ip_address="10.80.0.64/26"),
        AddressPair(ip_address="10.80.0.7", mac_address=third.vif.mac),
        AddressPair(ip_address="10.80.0.200", mac_address=other_mac),
    ]
    guest, peer = lab.guest(5, allowed_address_pairs=pairs), lab.guest(6)
    own = guest.vif.mac
    allowed = [
        ipv4((own, BROADCAST), OTHER_IP, PEER),
        arp(own, (own, OTHER_IP), PEER),
        ipv4((other_mac, BROADCAST), "10.80.0.200", PEER),
    ]
    refused = [ipv4((own, BROADCAST), "10.80.0.200", PEER), ipv4((own, BROADCAST), "10.80.0.128", PEER)]
    assert arrives(guest, peer, allowed + refused, good(guest), allowed) == allowed
    to_third = [ipv4((peer.vif.mac, third.vif.mac), peer.ip, third.ip)]
    assert arrives(peer, third, to_third, good(peer), to_third) == to_third, (
        "whose MAC it is goes on to have it"
    )
    lab.host.plug(msgspec.structs.replace(guest.vif, allowed_address_pairs=[]))
    assert arrives(guest, peer, allowed, good(guest)) == []
    lab.host.plug(msgspec.structs.replace(guest.vif, port_security=False))
    open_to_all = [frame for frame in bad_frames(own).values() if frame[12:14] != b"\x81\x00"]
    # A switch that has just dropped such frames may do so a moment longer.
    assert eventually(lambda: arrives(guest, peer, open_to_all, good(guest)) == open_to_all)


def test_what_changes_of_a_port_that_is_plugged(lab: PlugLab) -> None:
    """The channel that tells hosts to look again (ADR 6) reaches every plug's rules against spoofing."""
    guest, peer = lab.guest(5), lab.guest(6)
    other = ipv4((guest.vif.mac, BROADCAST), OTHER_IP, PEER)

    def heard(*pairs: AddressPair, port_security: bool = True) -> bool:
        port = PortSecurity(
            port_id=guest.vif.port_id,
            port_security=port_security,
            allowed_address_pairs=list(pairs),
            security_groups=[WEB],
        )
        lab.host.refresh(NetworkState(ports=[port], groups={WEB: [OUT]}), time.monotonic())
        return arrives(guest, peer, [other], good(guest)) == [other]

    # What is closed is closed at once; a switch that has just dropped such a frame may do so a moment longer.
    pair = AddressPair(ip_address=OTHER_IP)
    assert not heard()
    assert eventually(lambda: heard(pair))
    assert not heard()
    assert eventually(lambda: heard(port_security=False))
    assert not heard()
    assert eventually(lambda: heard(pair))
    lab.restart()
    assert arrives(guest, peer, [other], good(guest), [other]) == [other]


def test_a_port_that_gets_another_address_while_it_is_plugged(lab: PlugLab) -> None:
    guest, peer = lab.guest(5), lab.guest(6)
    own, address = guest.vif.mac, "10.80.0.9"
    lab.host.plug(msgspec.structs.replace(guest.vif, addresses=[VifAddress(ip=address, subnet=lab.subnet)]))
    old, new = (ipv4((own, BROADCAST), ip, PEER) for ip in (guest.ip, address))
    last = ipv4((own, BROADCAST), address, PEER, text=b"last")
    assert arrives(guest, peer, [old, new], last, [new]) == [new]
    assert guest.dhcp(lab.folder)["ip"] == address


def test_security_groups_where_each_port_has_its_connections(switched: PlugLab) -> None:
    """tests/system/host_network/test_host_network_security.py has the rest, for all plugs."""
    two = Two(switched)
    try:
        for one, other in ((0, 1), (1, 0)):
            two.tell(tcp(5001))
            with two.connection(5001) as ends:
                assert passes(ends[one], ends[other])
                two.tell(tcp(80))
                assert not passes(ends[one], ends[other], 3)
        assert [answers_what_never_came(two, *out) for out in ((OUT,), ())] == [True, False]
        assert is_told_by_the_network_alone(two)
    finally:
        two.service.close()


def answers_what_never_came(two: Two, *out: Filter) -> bool:
    """Whether the web, which nothing may reach, and from which ``out`` goes, gets through to the client as if
    it answered what the client has sent."""
    ports = [
        PortSecurity(port_id=guest.vif.port_id, port_security=True, security_groups=[group])
        for guest, group in ((two.web, WEB), (two.client, CLIENTS))
    ]
    inwards = Filter(direction="ingress", ethertype=IPV4)
    state = NetworkState(ports=ports, groups={WEB: list(out), CLIENTS: [OUT, inwards]})
    two.lab.host.refresh(state, time.monotonic())
    with two.client.inside(udp) as client, two.web.inside(udp) as web:
        client.sendto(b"ask", (two.web.ip, web.getsockname()[1]))
        with pytest.raises(TimeoutError):
            web.recv(9)
        web.sendto(b"answer", (two.client.ip, client.getsockname()[1]))
        client.settimeout(COMES if out else 0.5)
        with suppress(TimeoutError):
            return client.recv(9) == b"answer"
        return False


def is_told_by_the_network_alone(two: Two) -> bool:
    """Whether a closed guest takes an address from its network, and none from a guest whom nobody guards."""
    lab, stranger = two.lab, two.lab.guest(7, port_security=False)
    closed = lab.guest(8, security_groups=[])
    offer = ipv4((stranger.vif.mac, BROADCAST), stranger.ip, "255.255.255.255", ports=(67, 68))
    known = arp(stranger.vif.mac, (stranger.vif.mac, stranger.ip), closed.ip)
    assert arrives(stranger, closed, [offer], known) == []
    return closed.dhcp(lab.folder)["ip"] == closed.ip


def udp() -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.bind(("0.0.0.0", 0))
    one.settimeout(0.5)
    return one


def seen() -> dict[str, object]:
    """What is on the host, but for a device's state, which the kernel tells a moment later."""
    return {what: names for what, names in snapshot().items() if what != "addresses"}


def test_plugged_again_nothing_changes_and_unplugged_nothing_is_left(lab: PlugLab) -> None:
    before = seen()
    one, two = make_vif(lab.subnet, 5, lab.network_id), make_vif(lab.subnet, 6, lab.network_id)
    lab.host.plug(one)
    alone = seen()
    lab.host.plug(two)
    both = seen()
    lab.host.plug(two)
    lab.host.plug(one)
    assert seen() == both
    lab.host.unplug(two.port_id)
    lab.host.unplug(two.port_id)
    assert seen() == alone
    lab.restart()
    assert lab.host.repair() == []
    assert seen() == alone
    lab.host.unplug(one.port_id)
    if lab.kind == "bridge":
        assert seen() == before
    else:
        assert lab.switch.bridges() == []


def test_what_is_missing_is_mended(lab: PlugLab) -> None:
    guest, peer = lab.guest(5), lab.guest(6)
    for one in (guest, peer):
        one.set_address()
    lab.host.repair()
    assert lab.host.repair() == []
    healthy = snapshot()
    assert eventually(lambda: wrong(lab) == [])
    for damage in damages(lab, guest.vif):
        run(*damage)
        assert wrong(lab), damage
        assert eventually(lab.host.repair), damage
        assert eventually(lambda: lab.host.repair() == []), damage
        assert eventually(lambda: snapshot()["links"] == healthy["links"]), damage
        after = snapshot()
        assert sorted(str(after["rules"]).splitlines()) == sorted(str(healthy["rules"]).splitlines())
        assert eventually(lambda: answers(guest, peer, 2)), damage


def wrong(lab: PlugLab) -> list[str]:
    """What the doctor says of this host."""
    said = look.problems(lab.folder / "network", lab.config.network)
    if lab.kind == "bridge":
        return said
    switch = Switch(unix_socket(lab.switch.connection), lab.folder)
    try:
        return said + switch.problems(set().union(*(on_switch(lab.kind, vif) for vif in recorded(lab))))
    finally:
        switch.close()


def recorded(lab: PlugLab) -> list[Vif]:
    return list(lab.host.plugged().values())


def damages(lab: PlugLab, vif: Vif) -> list[list[str]]:
    space = names.namespace(vif.network_id)
    found = [
        ["ip", "link", "set", vif.tap, "down"],
        ["ip", "link", "del", names.gate(vif.network_id)],
        ["ip", "link", "del", names.transit(vif.network_id)],
        ["ip", "netns", "del", space],
        ["ip", "netns", "exec", space, "nft", "flush", "ruleset"],
        ["nft", "flush", "ruleset"],
        ["sysctl", "-qw", "net.ipv4.ip_forward=0"],
    ]
    if lab.kind == "bridge":
        return [*found, ["ip", "link", "set", vif.tap, "nomaster"], ["ip", "link", "del", vif.bridge]]
    port, vsctl = port_on_switch(lab, vif), ["ovs-vsctl", f"--db={lab.switch.connection}"]
    found += [
        [*vsctl, "del-port", port],
        [*vsctl, "del-port", names.gate(vif.network_id)],
        [*vsctl, "set", "Port", port, "tag=77"],
        [*vsctl, "set", "Port", names.gate(vif.network_id), "tag=77"],
        [*vsctl, "remove", "Interface", port, "external_ids", "iface-id"],
        [*vsctl, "del-br", "br-int"],
    ]
    if lab.kind == "ovs-hybrid":
        return [
            *found,
            ["ip", "link", "set", vif.tap, "nomaster"],
            ["ip", "link", "del", names.qvb(vif.port_id)],
            ["ip", "link", "del", names.qbr(vif.port_id)],
        ]
    control = f"unix:{lab.switch.folder / 'br-int.mgmt'}"
    return [
        *found,
        ["ovs-ofctl", "del-flows", control],
        ["ovs-ofctl", "del-flows", control, "table=110,ip"],
        ["ovs-ofctl", "mod-flows", control, "table=110,arp,actions=drop"],
    ]


def test_no_moment_without_rules(switched: PlugLab) -> None:
    """The tap comes up last; and a switch that begins anew passes nothing before the rules are there."""
    if switched.kind != "ovs":
        pytest.skip("its rules are the kernel's, and stay")
    guest, peer = switched.guest(5), switched.guest(6)
    spoofed = ipv4((guest.vif.mac, BROADCAST), OTHER_IP, PEER)
    switched.switch.kill()
    switched.switch.start()
    control = switched.switch.folder / "br-int.mgmt"
    eventually(lambda: accepts(control))
    assert switched.switch.flows() == []
    with guest.raw() as out, peer.raw() as into:
        into.settimeout(0.5)
        out.send(spoofed)
        heard = set()  # itself, too
        with suppress(TimeoutError):
            while True:
                heard.add(into.recv(2048))
    assert spoofed not in heard
    eventually(switched.host.repair)
    assert arrives(guest, peer, [spoofed], good(guest)) == []


def test_a_guest_that_runs_is_joined_again_with_its_rules(
    switched: PlugLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tap is up when it comes to the bridge: nothing passes until its flows are there."""
    if switched.kind != "ovs":
        pytest.skip("its rules are the kernel's, and stay")
    guest, peer = switched.guest(5), switched.guest(6)
    own = guest.vif.mac
    frames = [ipv4((own, BROADCAST), OTHER_IP, PEER), good(guest)]
    change = openflow.change

    def tried_before(control: Path, commands: list[str]) -> None:
        assert arrives_at(peer, out, frames) == [], "it has no flows yet"
        change(control, commands)

    with guest.raw() as out:
        assert eventually(lambda: arrives_at(peer, out, frames) == [frames[1]])
        monkeypatch.setattr(openflow, "change", tried_before)
        for damage in (["del-port", guest.vif.tap], ["del-br", "br-int"]):
            switched.switch.vsctl(*damage)
            eventually(switched.host.repair)
        assert eventually(lambda: arrives_at(peer, out, frames) == [frames[1]])


def arrives_at(receiver: Guest, out: socket.socket, frames: list[bytes]) -> list[bytes]:
    heard = set()
    with receiver.raw() as into:
        for frame in frames:
            out.send(frame)
        into.settimeout(0.2)
        with suppress(TimeoutError):
            while True:
                heard.add(into.recv(2048))
    return [frame for frame in frames if frame in heard]


def test_a_restart_of_the_switch(switched: PlugLab) -> None:
    guest, peer = switched.guest(5), switched.guest(6)
    stranger = switched.guest(7, network_id=str(uuid4()))
    for one in (guest, peer, stranger):
        one.set_address()
    tags = [tag_of(switched, one.vif) for one in (guest, peer, stranger)]
    assert tags[0] == tags[1] != tags[2]
    before = switched.switch.ports()
    switched.switch.kill()
    switched.host.repair()  # finds no switch, and must not fail
    switched.switch.start()

    def works() -> bool:
        switched.host.repair()
        return answers(guest, peer, 2)

    eventually(works)
    assert switched.switch.ports() == before
    assert [tag_of(switched, one.vif) for one in (guest, peer, stranger)] == tags
    assert not answers(guest, stranger, 2)
    new = switched.guest(8)
    new.set_address()
    assert answers(guest, new)


@pytest.mark.parametrize("daemon", ["ovsdb-server", "ovs-vswitchd"])
def test_a_restart_of_half_the_switch(switched: PlugLab, daemon: str) -> None:
    guest, peer = switched.guest(5), switched.guest(6)
    for one in (guest, peer):
        one.set_address()
    ports = switched.switch.ports()
    switched.switch.restart(daemon)

    def works() -> bool:
        switched.host.repair()
        return answers(guest, peer, 2)

    eventually(works)
    eventually(lambda: wrong(switched) == [])
    assert switched.switch.ports() == ports
    spoofed = ipv4((guest.vif.mac, BROADCAST), OTHER_IP, PEER)
    assert arrives(guest, peer, [spoofed], good(guest)) == []


def test_what_changes_in_the_switch_is_told(switched: PlugLab) -> None:
    """Also what the kernel knows nothing of."""
    guest, told = switched.guest(5), queue.Queue[bool]()
    switched.host.on_change(lambda: told.put(True))
    (port,) = on_switch(switched.kind, guest.vif) - {names.gate(guest.vif.network_id)}

    def quiet() -> bool:
        while not told.empty():
            told.get()
        return switched.host.repair() == [] and told.empty()

    eventually(quiet)
    switched.switch.vsctl("set", "Port", port, "tag=77")
    assert told.get(timeout=30)
    if switched.kind == "ovs":  # else it loses nothing
        eventually(quiet)
        switched.switch.restart("ovs-vswitchd")
        assert told.get(timeout=30)
    switched.host.on_change(lambda: None)


def test_while_the_switch_is_away(switched: PlugLab) -> None:
    """What cannot be is said; what was begun is taken up."""
    vif = make_vif(switched.subnet, 5, switched.network_id)
    switched.host.plug(make_vif(switched.subnet, 6, switched.network_id))
    switched.switch.kill()
    with pytest.raises(KilonovaError, match="Open vSwitch"):
        switched.host.plug(vif)
    switched.switch.start()
    eventually(lambda: is_plugged(switched, vif))
    switched.host.unplug(vif.port_id)
    assert port_on_switch(switched, vif) not in switched.switch.ports()


def test_an_unplug_that_failed_leaves_no_port_without_rules(switched: PlugLab) -> None:
    """The server still has the port then, and repair() joins it again."""
    guest, peer = switched.guest(5), switched.guest(6)
    switched.switch.kill()
    with pytest.raises(KilonovaError, match="Open vSwitch"):
        switched.host.unplug(guest.vif.port_id)
    assert guest.vif.port_id in switched.host.plugged()
    switched.switch.start()
    spoofed = ipv4((guest.vif.mac, BROADCAST), OTHER_IP, PEER)
    for one in (guest, peer):
        one.set_address()

    def works() -> bool:
        switched.host.repair()
        return answers(guest, peer, 2)

    eventually(works, 20)
    assert arrives(guest, peer, [spoofed], good(guest)) == []
    switched.host.unplug(guest.vif.port_id)
    assert port_on_switch(switched, guest.vif) not in switched.switch.ports()


def is_plugged(lab: Lab, vif: Vif) -> bool:
    try:
        lab.host.plug(vif)
    except KilonovaError:
        return False
    return True


def test_others_on_the_bridge_are_left_alone(switched: PlugLab) -> None:
    switch = switched.switch
    switch.vsctl("add-br", "br-int", "--", "set", "Bridge", "br-int", "datapath_type=netdev")
    run("ip", "link", "add", "others", "type", "veth", "peer", "elsewhere")
    switch.vsctl("add-port", "br-int", "others", "tag=4094")
    switch.run(
        "ovs-ofctl",
        "add-flow",
        f"unix:{switch.folder / 'br-int.mgmt'}",
        "cookie=0x7,priority=5,in_port=9,actions=drop",
    )
    before = (
        switch.vsctl("list", "Bridge", "br-int"),
        switch.vsctl("list", "Port", "others"),
        switch.flows(),
    )
    guest, peer = switched.guest(5), switched.guest(6)
    assert tag_of(switched, guest.vif) != 4094
    for one in (guest, peer):
        one.set_address()
    assert answers(guest, peer)
    assert set(before[2]) <= set(switch.flows())
    for one in (guest, peer):
        switched.host.unplug(one.vif.port_id)
    after = (switch.vsctl("list", "Bridge", "br-int"), switch.vsctl("list", "Port", "others"), switch.flows())
    assert after == before
    switch.vsctl("del-br", "br-int")
    run("ip", "link", "del", "others")


def test_ports_without_records_are_removed_at_start(switched: PlugLab) -> None:
    """A change was on its way to the switch when its process was killed, and done after all was undone."""
    one, two = make_vif(switched.subnet, 5, switched.network_id), make_vif(switched.subnet, 6, str(uuid4()))
    for vif in (one, two):
        switched.host.plug(vif)
    switched.host.stop()
    (switched.folder / "network" / "ports" / f"{two.port_id}.json").unlink()
    run("ip", "link", "del", two.tap)
    if switched.kind == "ovs-hybrid":
        for name in (names.qvb(two.port_id), names.qbr(two.port_id)):
            run("ip", "link", "del", name)
    switched.start()
    assert switched.switch.ports() == {port_on_switch(switched, one), names.gate(one.network_id)}
    assert two.network_id not in switched.switch.vsctl("get", "Bridge", "br-int", "external_ids")


def test_another_plug_is_chosen_while_guests_run() -> None:
    with host_with("ovs") as (folder, switch):
        lab = PlugLab("bridge", folder, switch)
        try:
            guest, peer = lab.guest(5), lab.guest(6)
            for one in (guest, peer):
                one.set_address()
            for kind in ("ovs-hybrid", "ovs", "bridge"):
                lab.host.stop()
                lab.config = config_of(kind, switch)
                lab.start()
                eventually(lambda: answers(guest, peer, 2))
                spoofed = ipv4((guest.vif.mac, BROADCAST), OTHER_IP, PEER)
                assert arrives(guest, peer, [spoofed], good(guest)) == [], kind
                lab.host.repair()
                assert lab.host.repair() == []
        finally:
            lab.close()


def test_a_switch_that_leaves_checksums_unmade_is_refused() -> None:
    """A guest on it could ping, and would wonder why nothing else works."""
    with host_with("ovs-hybrid") as (folder, switch):  # whose switch does not take them over
        lab = PlugLab("ovs", folder, switch)
        vif = make_vif(lab.subnet, 5, lab.network_id)
        with pytest.raises(BuildFailed, match="userspace-tso-enable"):
            lab.host.plug(vif)
        lab.host.unplug(vif.port_id)
        lab.close()


@pytest.mark.parametrize("verb", ["plug", "unplug"])
@pytest.mark.parametrize("kind", SWITCHED)
def test_killed_between_any_two_acts_of_the_plug(kind: PlugKind, verb: str) -> None:
    with host_with(kind) as (folder, switch):
        assert switch is not None
        # Without DHCP and gateway, which have nothing to do with the plug.
        plain = subnet(gateway=False, enable_dhcp=False)
        vif = msgspec.json.encode(make_vif(plain, 5, str(uuid4()))).decode()
        arguments = [str(folder / "killed"), vif, verb, "1", "1", kind, switch.connection]
        done = subprocess.run(
            [sys.executable, str(KILLED), *arguments],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert int(done.stdout.split()[-1]) > 3, "the places were found"


def test_the_switch_is_asked_in_its_own_words(switched: PlugLab) -> None:
    """What every OpenStack host writes beside a port."""
    vif = make_vif(switched.subnet, 5, switched.network_id, server_id=str(uuid4()))
    switched.host.plug(vif)
    said = switched.switch.vsctl("get", "Interface", port_on_switch(switched, vif), "external_ids")
    for word in (
        f'iface-id="{vif.port_id}"',
        f'attached-mac="{vif.mac}"',
        "iface-status=active",
        f'vm-uuid="{vif.server_id}"',
    ):
        assert word in said
    if switched.kind == "ovs-hybrid":
        bridge = linux.find(f"qbr{vif.port_id[:11]}")
        assert bridge is not None
        for name in (vif.tap, f"qvb{vif.port_id[:11]}"):
            link = linux.find(name)
            assert link is not None
            assert link.master == bridge.index
