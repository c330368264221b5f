"""Two hosts, for every plug: a network is one though its guests are on both, and each host's part has its own
DHCP, gateway and metadata, which never meet."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from msgspec import structs
from tests.far_hosts import FarHost, FarLab, Wire, encapsulated, far_hosts, ping, ping_six
from tests.openvswitch import installed
from tests.plugs import KINDS, host_with
from tests.system.host_network import six
from tests.system.host_network.lab import (
    BROADCAST,
    COMES,
    Guest,
    Service,
    arp,
    eventually,
    ipv4,
    mac,
    make_vif,
    run,
    subnet,
)
from tests.system.host_network.test_host_routers import FLOATING, HOST_SIDE, gateway, interface

from kilonova.domain.errors import BuildFailed
from kilonova.domain.network import NetworkState, NetworkTunnel, PlugKind, PortSecurity, Vif, VifAddress
from kilonova.domain.routers import HostRouters, RouterAddress, RouterFloatingIp, RouterState
from kilonova.domain.security_groups import IPV4, Filter
from kilonova.network.host import look, names
from kilonova.network.host.segment import Segment

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="changes the host's network"),
    pytest.mark.skipif(not installed(), reason="Open vSwitch is not installed"),
]

KILLED = Path(__file__).parents[1] / "system" / "host_network" / "killed_at_any_act.py"
NET, OTHER = (str(uuid4()) for _ in range(2))
VNI, OTHER_VNI = 4711, 4712
SUBNET, SUBNET6 = subnet(), six.subnet6()
MTU = 1450
PEERS = ["10.99.0.1", "10.99.0.2"]


# --- on a host
def learn(lab: FarLab, network_id: str, vni: int, peers: list[str]) -> None:
    tunnel = NetworkTunnel(segmentation_id=vni, peers=[one for one in peers if one != lab.address])
    lab.host.refresh(NetworkState(tunnels={network_id: tunnel}), time.monotonic())


def plug(lab: FarLab, vif: Vif) -> None:
    lab.plug(vif)


def unplug(lab: FarLab, vif: Vif) -> None:
    guest = guest_of(lab, vif)
    lab.host.unplug(vif.port_id)
    lab.guests.remove(guest)
    guest.close()


def guest_of(lab: FarLab, vif: Vif) -> Guest:
    return next(guest for guest in lab.guests if guest.vif.port_id == vif.port_id)


def lease(lab: FarLab, vif: Vif) -> dict[str, str]:
    """What DHCP told it, what the metadata service answers, and whom it knows after that."""
    guest = guest_of(lab, vif)
    got = guest.dhcp(lab.folder)
    answer = str(guest.get("/nothing")[0])
    return got | {"metadata": answer, "neighbours": guest.run("ip", "neigh", "show")}


def pings(lab: FarLab, vif: Vif, address: str, size: int = 64) -> bool:
    guest = guest_of(lab, vif)
    return guest.inside(lambda: ping(address, size))


def configure_six(lab: FarLab, vif: Vif) -> None:
    """The guest gives itself the address that its own host's advertisements lead to."""
    guest = guest_of(lab, vif)
    six.configures_itself(guest)
    eventually(lambda: six.addresses(guest) == [six.six_of(guest)], 20)


def pings_six(lab: FarLab, vif: Vif, address: str) -> bool:
    guest = guest_of(lab, vif)
    return eventually(lambda: guest.inside(lambda: ping_six(address)), 20)


def serve(lab: FarLab, vif: Vif) -> int:
    guest = guest_of(lab, vif)
    lab.service = Service(guest.inside, vif.addresses[0].ip)  # type: ignore[attr-defined]
    return lab.service.port  # type: ignore[attr-defined,no-any-return]


def stop_serving(lab: FarLab) -> None:
    lab.service.close()  # type: ignore[attr-defined]


def reaches(lab: FarLab, vif: Vif, address: str, port: int) -> str | None:
    return guest_of(lab, vif).reaches(address, port, COMES)


def listen(lab: FarLab, vif: Vif) -> None:
    lab.ear = guest_of(lab, vif).raw()  # type: ignore[attr-defined]


def send(lab: FarLab, vif: Vif, frames: list[bytes]) -> None:
    with guest_of(lab, vif).raw() as out:
        for frame in frames:
            out.send(frame)


def heard(lab: FarLab, last: bytes, must: list[bytes]) -> list[bytes]:
    """What arrived by then, and a little later, ``must`` in any case: frames overtake each other."""
    frames = []
    with lab.ear as ear:  # type: ignore[attr-defined]
        while (seen := ear.recv(4096)) != last:
            frames.append(seen)
        with suppress(TimeoutError):
            while not set(must) <= {*frames, last}:
                frames.append(ear.recv(4096))
        ear.settimeout(0.3)
        with suppress(TimeoutError):
            while True:
                frames.append(ear.recv(4096))
    return frames


def answers(lab: FarLab, vif: Vif, address: str) -> set[str]:
    """The devices of the host that tell the guest that they have this address of the host's."""
    found = set()
    with guest_of(lab, vif).raw() as one:
        one.settimeout(0.5)
        one.send(arp(vif.mac, (vif.mac, vif.addresses[0].ip), address))
        with suppress(TimeoutError):
            while True:
                frame = one.recv(4096)
                if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\x00\x02":
                    found.add(frame[22:28])
    return {link["ifname"] for link in json.loads(run("ip", "-j", "link")) if mac(link["address"]) in found}


def devices(_lab: FarLab) -> list[str]:
    """Of tunnels; and the sockets on their port."""
    links = [line.split(":")[1].strip().split("@")[0] for line in run("ip", "-o", "link").splitlines()]
    sockets = [line for line in run("ss", "-Huln").splitlines() if ":4789 " in line]
    return [name for name in links if name[:3] in ("knv", "knw", "kni", "kno")] + sockets


def damage(_lab: FarLab, network_id: str, how: str) -> None:
    tunnel = names.tunnel(network_id)
    if how == "device":
        run("ip", "link", "del", tunnel)
    elif how == "hosts":
        run("bridge", "fdb", "flush", "dev", tunnel)
    elif how == "rules":
        for table in run("nft", "list", "tables").splitlines():
            if "kilonova-tunnels" in table:
                run("nft", "delete", *table.split())


def repair(lab: FarLab) -> list[str]:
    return lab.host.repair()


def wrong(lab: FarLab) -> list[str]:
    """What the doctor would say."""
    return look.problems(lab.folder / "network", lab.config.network)


def restart(lab: FarLab) -> None:
    lab.restart()


def allow(lab: FarLab, vif: Vif, members: list[str]) -> None:
    """Its group lets in the members of another by ping."""
    group, remote = vif.security_groups or []
    out = Filter(direction="egress", ethertype=IPV4)
    into = Filter(direction="ingress", ethertype=IPV4, protocol=1, remote_group=remote)
    port = PortSecurity(port_id=vif.port_id, port_security=True, security_groups=[group])
    state = NetworkState(ports=[port], groups={group: [out, into]}, members={remote: members})
    lab.host.refresh(state, time.monotonic())


# --- the tests
@pytest.fixture(params=KINDS)
def hosts(request: pytest.FixtureRequest) -> Iterator[list[FarHost]]:
    with far_hosts(request.param, request.param) as made:
        yield made


def vif(number: int, network_id: str = NET, **more: Any) -> Vif:
    return make_vif(SUBNET, number, network_id, mtu=MTU, **more)


def dual(vif: Vif) -> Vif:
    """With an address of IPv6 that it makes of its MAC."""
    added = VifAddress(ip=six.own(vif.mac), subnet=SUBNET6)
    return structs.replace(vif, addresses=[*vif.addresses, added])


def join(hosts: list[FarHost], network_id: str = NET, vni: int = VNI) -> None:
    for host in hosts:
        host.call(learn, network_id, vni, PEERS)


def test_a_network_on_two_hosts(hosts: list[FarHost]) -> None:
    one, two = hosts
    a, b = dual(vif(10)), dual(vif(11))
    with Wire() as wire:
        for host, guest in ((one, a), (two, b)):
            host.call(plug, guest)
            assert host.call(devices) == []  # alone, it opens nothing
        join(hosts)
        for host, guest in ((one, a), (two, b)):
            got = host.call(lease, guest)
            assert (got["ip"], got["mtu"], got["metadata"]) == (guest.addresses[0].ip, str(MTU), "404")
            assert names.guests_mac(NET) in got["neighbours"]
        assert eventually(lambda: one.call(pings, a, b.addresses[0].ip))
        assert eventually(lambda: two.call(pings, b, a.addresses[0].ip))
        for host, guest in ((one, a), (two, b)):
            host.call(configure_six, guest)
        assert one.call(pings_six, a, b.addresses[1].ip)
        assert eventually(lambda: one.call(pings, a, b.addresses[0].ip, MTU))
        assert not one.call(pings, a, b.addresses[0].ip, MTU + 2)
        port = two.call(serve, b)
        assert one.call(reaches, a, b.addresses[0].ip, port) == a.addresses[0].ip
        two.call(stop_serving)

        for address in (one.address, two.address):  # neither host is reached past its switch or its tunnel
            assert one.call(answers, a, address) == set()
        check_what_crosses(one, two, a, b)
        check_others(one, two, a, b)
        check_repair(one, two, a, b, wire)
        two.call(unplug, b)
        assert two.call(devices) == []
        two.call(plug, b)
        join(hosts)
        two.call(lease, b)
        assert eventually(lambda: one.call(pings, a, b.addresses[0].ip))
        two.die()
        # Its network is taken down by the kernel, a little after its process.
        assert eventually(lambda: not one.call(pings, a, b.addresses[0].ip), 20)
        got = one.call(lease, a)
        assert (got["ip"], got["metadata"]) == (a.addresses[0].ip, "404"), "its own host's, as before"
        one.call(learn, NET, VNI, [])
        assert one.call(devices) == []
    assert {vni for vni, _ in wire.frames} == {VNI, OTHER_VNI}
    assert [frame for vni, frame in wire.frames if own(frame)] == []


def own(frame: bytes) -> bool:
    """Of what each host has for itself: its namespace's MAC, DHCP, or ARP for one of its addresses."""
    networks_own = {mac(names.guests_mac(network)) for network in (NET, OTHER)}
    if {frame[:6], frame[6:12]} & networks_own:
        return True
    if frame[12:14] == b"\x08\x00" and frame[23] == socket.IPPROTO_UDP:
        return int.from_bytes(frame[36:38]) in (67, 68)
    addresses = {SUBNET.gateway_ip, SUBNET.dhcp_address, "169.254.169.254"}
    return frame[12:14] == b"\x08\x06" and str(IPv4Address(frame[38:42])) in addresses


def check_what_crosses(one: FarHost, two: FarHost, a: Vif, b: Vif) -> None:
    """By frames: what the guest may send, and nothing of what each host has for itself."""
    ip, other = a.addresses[0].ip, b.addresses[0].ip
    last = ipv4((a.mac, b.mac), ip, other, text=b"last")
    passes = [ipv4((a.mac, BROADCAST), ip, "10.80.0.255", text=b"all"), arp(a.mac, (a.mac, ip), other)]
    stopped = [
        arp(a.mac, (a.mac, ip), str(SUBNET.gateway_ip)),
        arp(a.mac, (a.mac, ip), str(SUBNET.dhcp_address)),
        arp(a.mac, (a.mac, ip), "169.254.169.254"),
        ipv4((a.mac, BROADCAST), "0.0.0.0", "255.255.255.255", ports=(68, 67)),
        ipv4((a.mac, BROADCAST), ip, "255.255.255.255", ports=(68, 67)),
        ipv4((a.mac, names.guests_mac(NET)), ip, other),
        ipv4((a.mac, b.mac), "10.80.0.77", other),  # an address that is not its own
        ipv4((a.mac, b.mac), ip, other, ports=(67, 68)),
    ]
    two.call(listen, b)
    one.call(send, a, [*stopped, *passes, last])
    seen = two.call(heard, last, passes)
    assert [frame for frame in passes if frame in seen] == passes
    assert [frame for frame in stopped if frame in seen] == []


def check_others(one: FarHost, two: FarHost, a: Vif, b: Vif) -> None:
    """Another network with the same addresses is another; and who is no host of a network is not heard."""
    stranger, far = vif(12, OTHER), vif(13, OTHER)
    one.call(plug, stranger)
    two.call(plug, far)
    join([one, two], OTHER, OTHER_VNI)
    for host, guest in ((one, stranger), (two, far)):
        host.call(lease, guest)
    assert eventually(lambda: one.call(pings, stranger, far.addresses[0].ip))
    assert not one.call(pings, stranger, b.addresses[0].ip)
    two.call(listen, b)
    forged, last = (ipv4((a.mac, b.mac), a.addresses[0].ip, b.addresses[0].ip, text=t) for t in (b"1", b"2"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.sendto(encapsulated(VNI, forged), (two.address, 4789))
    one.call(send, a, [last])
    assert forged not in two.call(heard, last, [])
    one.call(unplug, stranger)
    two.call(unplug, far)


def check_repair(one: FarHost, two: FarHost, a: Vif, b: Vif, wire: Wire) -> None:
    one.call(repair)
    for how in ("device", "hosts", "rules"):
        assert one.call(wrong) == []
        with wire.unheeded(two.address) if how == "rules" else nullcontext():
            # What crosses while others have deleted the rules is theirs to answer for.
            one.call(damage, NET, how)
            assert one.call(wrong), how
            assert one.call(repair), how
        assert eventually(lambda: one.call(pings, a, b.addresses[0].ip)), how
    assert eventually(lambda: one.call(repair) == [])
    one.call(restart)
    assert eventually(lambda: one.call(pings, a, b.addresses[0].ip))


def rules_of_a_start_that_mends_nothing(lab: FarLab) -> str:
    lab.host.stop()
    with pytest.MonkeyPatch.context() as patched:

        def fails(*_: object) -> list[str]:
            raise BuildFailed("no")

        patched.setattr(Segment, "ensure", fails)
        lab.start()
        return run("nft", "list", "table", *tunnel_table("bridge"))


def tunnel_table(family: str) -> tuple[str, str]:
    lines = run("nft", "list", "tables", family).splitlines()
    (name,) = [line.split()[2] for line in lines if "kilonova-tunnels" in line]
    return family, name


def test_a_tunnel_is_ruled_from_the_first_moment_of_a_start() -> None:
    """Also what is said of the namespace's addresses: not only when the network was looked at."""
    with far_hosts("bridge") as (one,):
        one.call(plug, vif(10))
        one.call(learn, NET, VNI, PEERS)
        assert str(SUBNET.gateway_ip) in one.call(rules_of_a_start_that_mends_nothing)


@pytest.mark.parametrize("kind", KINDS)
def test_groups_hold_for_what_comes_by_a_tunnel(kind: Any) -> None:
    with far_hosts(kind, kind) as (one, two):
        group, remote = str(uuid4()), str(uuid4())
        a, b = vif(10), vif(11, security_groups=[group])
        one.call(plug, a)
        two.call(allow, structs.replace(b, security_groups=[group, remote]), [])
        two.call(plug, b)
        join([one, two])
        one.call(lease, a)
        two.call(lease, b)
        assert not one.call(pings, a, b.addresses[0].ip)
        assert eventually(lambda: two.call(pings, b, a.addresses[0].ip))  # what answers may come
        two.call(allow, structs.replace(b, security_groups=[group, remote]), [a.addresses[0].ip])
        eventually(lambda: one.call(pings, a, b.addresses[0].ip), 20)  # a switch opens in its own time


# --- a router on one of them
def route(lab: FarLab, routers: list[RouterState], gateways: dict[str, list[str]]) -> None:
    lab.host.apply_routers(HostRouters(routers=routers, gateways=gateways))


def outside_reaches(_lab: FarLab, address: str, port: int) -> str:
    with socket.create_connection((address, port), timeout=COMES) as connection:
        return connection.recv(100).decode()


def default_six(lab: FarLab, vif: Vif) -> str:
    return guest_of(lab, vif).run("ip", "-6", "route", "show", "default")


@pytest.mark.parametrize(
    "kinds", [("bridge", "ovs"), ("ovs-hybrid", "bridge"), ("ovs", "ovs-hybrid")], ids="-".join
)
def test_a_router_serves_guests_of_other_hosts(kinds: tuple[PlugKind, PlugKind]) -> None:
    """One host has the router and no guest, the other has the guest: its gateways, its way out and its
    floating IP are on the first, its DHCP and metadata on its own."""
    with far_hosts(*kinds) as (one, two):
        b = dual(vif(11))
        internet = Service(lambda make: make(), "10.99.0.100")
        six_ip = str(SUBNET6.gateway_ip)
        second = structs.replace(
            interface(NET, SUBNET6),
            mac="fa:16:3e:10:00:02",
            addresses=[RouterAddress(ip=six_ip, cidr=SUBNET6.cidr, ra_mode="slaac")],
            mtu=MTU,
        )
        state = RouterState(
            id=str(uuid4()),
            interfaces=[structs.replace(interface(NET, SUBNET), mtu=MTU), second],
            gateway=gateway(),
            floating_ips=[RouterFloatingIp(floating_ip=FLOATING, fixed_ip=b.addresses[0].ip)],
        )
        gateways = {NET: [str(SUBNET.gateway_ip), six_ip]}
        two.call(plug, b)
        join([one, two])
        one.call(route, [state], gateways)
        two.call(route, [], gateways)
        two.call(configure_six, b)
        eventually(lambda: "via fe80::f816:3eff:fe10:2" in two.call(default_six, b), 20)
        assert two.call(pings_six, b, six_ip)
        assert two.call(lease, b)["metadata"] == "404"
        assert two.call(reaches, b, "10.99.0.100", internet.port) == one.address
        assert eventually(lambda: two.call(pings, b, str(SUBNET.gateway_ip), MTU))
        port = two.call(serve, b)
        assert one.call(outside_reaches, FLOATING, port) == HOST_SIDE
        two.call(stop_serving)
        one.call(damage, NET, "device")
        assert one.call(repair)
        assert eventually(lambda: two.call(pings, b, str(SUBNET.gateway_ip)))
        check_metadata_without_dhcp(one, two, state, gateways)
        one.call(route, [], {})
        assert one.call(devices) == []
        internet.close()


def check_metadata_without_dhcp(
    one: FarHost, two: FarHost, state: RouterState, gateways: dict[str, list[str]]
) -> None:
    """Nobody told the guest a way to the metadata service, so it asks its router, which is on another host
    and knows nothing of it: its own host answers all the same. So it does one without port security."""
    plain = subnet("10.81.0.0/24", enable_dhcp=False)
    plain = structs.replace(plain, dhcp_address=None)
    guests = [make_vif(plain, 12 + n, OTHER, mtu=MTU, port_security=n == 0) for n in range(2)]
    third = structs.replace(interface(OTHER, plain), mac="fa:16:3e:10:00:03", mtu=MTU)
    gateways = gateways | {OTHER: [str(plain.gateway_ip)]}
    for guest in guests:
        two.call(plug, guest)
    join([one, two], OTHER, OTHER_VNI)
    one.call(route, [structs.replace(state, interfaces=[*state.interfaces, third])], gateways)
    two.call(route, [], gateways)
    for guest in guests:
        assert two.call(metadata_by_router, guest) == 404
        two.call(unplug, guest)


def metadata_by_router(lab: FarLab, vif: Vif) -> int:
    guest = guest_of(lab, vif)
    guest.run("ip", "link", "set", "eth0", "mtu", str(MTU))
    guest.set_address()
    assert eventually(lambda: guest.inside(lambda: ping(str(vif.addresses[0].subnet.gateway_ip))), 20)
    return guest.get("/nothing")[0]


def speaks(lab: FarLab, vif: Vif, address: str, ports: list[int]) -> None:
    guest = guest_of(lab, vif)
    with guest.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as one:
        for port in ports:
            one.sendto(b"hello", (address, port))


def test_no_guest_speaks_vxlan_with_the_address_of_its_host() -> None:
    """Also while the host itself has no tunnel: another may take it for one of a network's hosts."""
    with far_hosts("bridge") as (one,):
        a, ears = vif(10), []
        one.call(plug, a)
        one.call(lease, a)
        for port in (4789, 4788):
            ears.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            ears[-1].bind(("10.99.0.100", port))
            ears[-1].settimeout(COMES)
        with ears[0], ears[1]:
            one.call(speaks, a, "10.99.0.100", [4789, 4788])
            assert ears[1].recv(10) == b"hello"
            ears[0].settimeout(0.3)
            with pytest.raises(TimeoutError):
                ears[0].recv(10)


# --- kill -9
@pytest.mark.parametrize("verb", ["join", "part"])
@pytest.mark.parametrize("kind", KINDS)
def test_killed_between_any_two_acts_of_a_tunnel(kind: PlugKind, verb: str) -> None:
    with host_with(kind) as (folder, switch):
        plain = subnet(gateway=False, enable_dhcp=False)
        told = msgspec.json.encode(make_vif(plain, 5, str(uuid4()))).decode()
        arguments = [str(folder / "killed"), told, verb, "1", "1"]
        arguments += [kind, switch.connection] if switch else []
        command = [sys.executable, str(KILLED), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout.split()[-1]) > 2, "the places were found"
