"""Routers on a host, with real packets: who reaches whom through them, and what is left of them."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from msgspec import structs
from tests.system.host_network.lab import (
    COMES,
    INTERNET,
    INTERNET_HOST_SIDE,
    Guest,
    Lab,
    Service,
    eventually,
    leaves_by,
    run,
    subnet,
)

from kilonova.config import Config, Network
from kilonova.domain.errors import BuildFailed
from kilonova.domain.network import HostRoute, VifSubnet
from kilonova.domain.routers import (
    ExternalSubnet,
    HostRouters,
    RouterAddress,
    RouterFloatingIp,
    RouterForwarding,
    RouterGateway,
    RouterInterface,
    RouterState,
)
from kilonova.network.host import findings, linux, look, names, routers
from kilonova.network.host.external import External

pytestmark = pytest.mark.system

PUBLIC = "198.51.100.0/24"
HOST_SIDE, GATEWAY, FLOATING = "198.51.100.1", "198.51.100.10", "198.51.100.20"
OTHER = subnet("10.90.0.0/24")


def interface(network_id: str, of: VifSubnet, ip: str | None = None) -> RouterInterface:
    """A router's port on that network, with the subnet's gateway address."""
    return RouterInterface(
        port_id=str(uuid4()),
        network_id=network_id,
        mac="fa:16:3e:10:00:01",
        addresses=[RouterAddress(ip=ip or str(of.gateway_ip), cidr=of.cidr)],
    )


def gateway(network_id: str | None = None, **more: object) -> RouterGateway:
    return RouterGateway(
        port_id=str(uuid4()),
        network_id=network_id or str(uuid4()),
        mac="fa:16:3e:20:00:01",
        addresses=[RouterAddress(ip=GATEWAY, cidr=PUBLIC)],
        subnets=[ExternalSubnet(cidr=PUBLIC, gateway_ip=HOST_SIDE)],
        **more,  # type: ignore[arg-type]
    )


class Routed:
    """A lab with two networks, and a router that may join them."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.other_id = str(uuid4())
        self.state = RouterState(
            id=str(uuid4()),
            interfaces=[interface(lab.network_id, lab.subnet), interface(self.other_id, OTHER)],
        )

    def guest(self, number: int, other: bool = False) -> Guest:
        guest = (
            self.lab.guest(number, network_id=self.other_id, of=OTHER) if other else self.lab.guest(number)
        )
        guest.set_address()
        return guest

    def apply(self, *states: RouterState) -> list[str]:
        gateways: dict[str, list[str]] = {}
        for state in states:
            for one in state.interfaces:
                gateways.setdefault(one.network_id, []).extend(a.ip for a in one.addresses)
        return self.lab.host.apply_routers(HostRouters(routers=list(states), gateways=gateways))

    def change(self, **values: object) -> list[str]:
        self.state = structs.replace(self.state, **values)  # type: ignore[arg-type]
        return self.apply(self.state)

    def lead(self, guest: Guest | None) -> list[str]:
        """The floating IP leads to that guest, or nowhere."""
        floating = [RouterFloatingIp(floating_ip=FLOATING, fixed_ip=guest.ip)] if guest else []
        return self.change(floating_ips=floating)

    def inside(self, *command: str) -> str:
        return linux.inside(names.router(self.state.id), lambda: run(*command))


@pytest.fixture
def routed(lab: Lab) -> Iterator[Routed]:
    one = Routed(lab)
    yield one
    lab.host.apply_routers(HostRouters())
    assert not linux.namespace_exists(names.router(one.state.id))


def service_in(guest: Guest) -> Service:
    return Service(guest.inside, "0.0.0.0")


def reached(address: str, port: int, seconds: float = 2) -> bool:
    try:
        socket.create_connection((address, port), timeout=seconds).close()
    except OSError:
        return False
    return True


def test_two_networks_meet_when_a_router_joins_them(routed: Routed) -> None:
    one, two = routed.guest(5), routed.guest(6, other=True)
    service = service_in(two)
    assert one.reaches(two.ip, service.port) is None
    routed.apply(routed.state)
    assert one.reaches(two.ip, service.port, seconds=COMES) == one.ip
    routed.apply()
    assert one.reaches(two.ip, service.port) is None
    service.close()


def test_the_metadata_service_is_reached_through_the_router(routed: Routed) -> None:
    """By guests that DHCP told no better way, on each of its networks."""
    one, two = routed.guest(5), routed.guest(6, other=True)
    routed.apply(routed.state)
    for guest in (one, two):
        guest.run("ip", "route", "replace", "169.254.169.254/32", "via", str(gateway_of(guest)))
        assert eventually(lambda guest=guest: answers(guest))


def gateway_of(guest: Guest) -> str | None:
    return guest.vif.addresses[0].subnet.gateway_ip


def answers(guest: Guest) -> bool:
    """Whether the metadata service does; it knows nothing of this guest."""
    try:
        return guest.get("/openstack")[0] == 404
    except OSError:
        return False


def test_the_router_is_the_only_way_out(routed: Routed, internet: Service) -> None:
    guest = routed.guest(5)
    assert guest.reaches(INTERNET, internet.port, seconds=COMES) == INTERNET_HOST_SIDE
    routed.apply(routed.state)
    assert guest.reaches(INTERNET, internet.port) is None
    routed.change(gateway=gateway())
    assert guest.reaches(INTERNET, internet.port, seconds=COMES) == INTERNET_HOST_SIDE
    assert leaves_by(guest, routed.state.interfaces[0].mac, internet) == {INTERNET_HOST_SIDE}
    routed.apply()
    assert guest.reaches(INTERNET, internet.port, seconds=COMES) == INTERNET_HOST_SIDE


def test_without_implicit_gateways_only_a_router_leads_out(
    make_lab: Callable[..., Lab], internet: Service
) -> None:
    routed = Routed(make_lab(Config(network=Network(implicit_gateway=False))))
    guest = routed.guest(5)
    assert guest.reaches(INTERNET, internet.port) is None
    routed.change(gateway=gateway())
    assert guest.reaches(INTERNET, internet.port, seconds=COMES) == INTERNET_HOST_SIDE
    routed.apply()


def test_a_floating_ip_in_and_out(routed: Routed) -> None:
    guest, neighbour = routed.guest(5), routed.guest(7)
    routed.change(gateway=gateway())
    service, seen = service_in(guest), Service(lambda make: make(), "0.0.0.0")
    assert not reached(guest.ip, service.port, 1)
    assert not reached(FLOATING, service.port, 1)
    routed.lead(guest)
    with socket.create_connection((FLOATING, service.port), timeout=COMES) as connection:
        assert connection.recv(100).decode() == HOST_SIDE
    # From inside, its neighbour among them: the answers come back through the router.
    assert neighbour.reaches(FLOATING, service.port, seconds=COMES) == GATEWAY
    # The host itself is closed to it, as to every guest.
    assert guest.reaches(HOST_SIDE, seen.port) is None
    service.close()
    seen.close()


def test_outwards_it_is_the_sender(routed: Routed, internet: Service) -> None:
    """The host hides external addresses behind its own, so look at what comes to the host."""
    guest, neighbour = routed.guest(5), routed.guest(7)
    routed.change(gateway=gateway())
    routed.lead(guest)
    for one, sender in ((guest, FLOATING), (neighbour, GATEWAY)):
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as heard:
            heard.bind((names.external(routed.state.gateway.network_id), 0))  # type: ignore[union-attr]
            heard.settimeout(COMES)
            assert one.reaches(INTERNET, internet.port, seconds=COMES) == INTERNET_HOST_SIDE
            while True:
                packet = heard.recv(2048)
                if socket.inet_ntoa(packet[16:20]) == INTERNET:
                    break
            assert socket.inet_ntoa(packet[12:16]) == sender


def test_without_snat_guests_keep_their_addresses(routed: Routed) -> None:
    guest = routed.guest(5)
    routed.change(gateway=gateway(enable_snat=False))
    run("ip", "route", "add", "10.80.0.0/24", "via", GATEWAY)
    service = service_in(guest)
    assert reached(guest.ip, service.port)
    routed.change(gateway=structs.replace(routed.state.gateway, enable_snat=True))  # type: ignore[type-var]
    assert not reached(guest.ip, service.port, 1)
    run("ip", "route", "del", "10.80.0.0/24")
    service.close()


class Answering:
    """A UDP service in a guest that says who it is."""

    def __init__(self, guest: Guest, name: bytes) -> None:
        def make() -> socket.socket:
            one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            one.bind(("0.0.0.0", 4000))
            return one

        self._socket, self._name = guest.inside(make), name
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            question, sender = self._socket.recvfrom(100)
            if question == b"end":
                return
            self._socket.sendto(self._name, sender)

    def close(self, guest: Guest) -> None:
        guest.inside(
            lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"end", (guest.ip, 4000))
        )
        self._thread.join(COMES)
        self._socket.close()


def test_it_moves_and_goes_while_traffic_flows(routed: Routed) -> None:
    one, two = routed.guest(5), routed.guest(6, other=True)
    services = [Answering(one, b"one"), Answering(two, b"two")]
    routed.change(gateway=gateway())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.2)
        client.connect((FLOATING, 4000))  # always the same flow

        def ask() -> bytes | None:
            try:
                client.send(b"who")
                return client.recv(100)
            except OSError:
                return None

        routed.lead(one)
        eventually(lambda: ask() == b"one")
        routed.lead(two)
        eventually(lambda: ask() == b"two")
        assert {ask() for _ in range(20)} <= {b"two", None}
        routed.lead(None)
        eventually(lambda: ask() is None)
        assert [ask() for _ in range(3)] == [None] * 3
    for service, guest in zip(services, (one, two), strict=True):
        service.close(guest)


def test_ports_of_a_floating_ip_lead_to_several_guests(routed: Routed) -> None:
    """One to one, a range to its like, a range to one port; what moves leads elsewhere at once."""
    one, two = routed.guest(5), routed.guest(6, other=True)
    services = [Answering(one, b"one"), Answering(two, b"two")]

    def lead(guest: Guest, *ports: int, protocol: str = "udp") -> RouterForwarding:
        outer, outer_last, inner, inner_last = ports
        return RouterForwarding(
            floating_ip=FLOATING,
            fixed_ip=guest.ip,
            protocol=protocol,
            external_first=outer,
            external_last=outer_last,
            internal_first=inner,
            internal_last=inner_last,
        )

    def who(port: int, seconds: float = 0.3) -> bytes | None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(seconds)
            client.connect((FLOATING, port))
            try:
                client.send(b"who")
                return client.recv(100)
            except OSError:
                return None

    routed.change(gateway=gateway())
    assert who(53) is None
    to_one = lead(one, 53, 53, 4000, 4000)
    shifted, many = lead(two, 3990, 3999, 3995, 4004), lead(one, 7000, 7009, 4000, 4000)
    routed.change(forwardings=[to_one, shifted, many, lead(two, 4000, 4001, 4000, 4001)])
    assert eventually(lambda: who(53) == b"one") is not False
    assert [who(3995, COMES), who(7000, COMES), who(7009, COMES), who(4000, COMES)] == [
        b"two",
        b"one",
        b"one",
        b"two",
    ]
    assert who(3994) is None
    assert who(54) is None
    assert routed.lab.host.repair() == []
    folder, config = routed.lab.folder / "network", routed.lab.config.network
    assert look.problems(folder, config) == []
    # TCP, from outside and, through the router, from a neighbour inside.
    service, neighbour = service_in(two), routed.guest(8)
    web = lead(two, 80, 80, service.port, service.port, protocol="tcp")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.2)
        client.connect((FLOATING, 53))  # always the same flow

        def ask() -> bytes | None:
            try:
                client.send(b"who")
                return client.recv(100)
            except OSError:
                return None

        eventually(lambda: ask() == b"one")
        routed.change(forwardings=[lead(two, 53, 53, 4000, 4000), web])
        eventually(lambda: ask() == b"two")
        assert {ask() for _ in range(10)} <= {b"two", None}
        assert reached(FLOATING, 80, COMES)
        assert neighbour.reaches(FLOATING, 80, seconds=COMES) == GATEWAY
        routed.change(forwardings=[])
        eventually(lambda: ask() is None)
    assert not reached(FLOATING, 80, 1)
    for answering, guest in zip(services, (one, two), strict=True):
        answering.close(guest)
    service.close()


def test_a_connection_that_may_stay_survives_changes(routed: Routed) -> None:
    one, two = routed.guest(5), routed.guest(6)
    routed.change(gateway=gateway())
    routed.lead(one)
    listener = one.inside(lambda: socket.create_server(("0.0.0.0", 4000)))
    with socket.create_connection((FLOATING, 4000), timeout=COMES) as client, listener.accept()[0] as server:
        more = RouterFloatingIp(floating_ip="198.51.100.21", fixed_ip=two.ip)
        routed.change(floating_ips=[*routed.state.floating_ips, more])
        routed.change(routes=[HostRoute(destination="192.168.9.0/24", nexthop=two.ip)])
        client.sendall(b"still here")
        server.settimeout(COMES)
        assert server.recv(100) == b"still here"
    listener.close()


def test_an_extra_route(routed: Routed) -> None:
    """A guest of one network is the way to addresses behind it."""
    one, two = routed.guest(5), routed.lab.guest(6, network_id=routed.other_id, of=OTHER, port_security=False)
    two.set_address()
    two.run("ip", "addr", "add", "192.168.9.1/32", "dev", "lo")
    service = Service(two.inside, "192.168.9.1")
    routed.apply(routed.state)
    assert one.reaches("192.168.9.1", service.port) is None
    routed.change(routes=[HostRoute(destination="192.168.9.0/24", nexthop=two.ip)])
    assert one.reaches("192.168.9.1", service.port, seconds=COMES) == one.ip
    routed.change(routes=[])
    assert one.reaches("192.168.9.1", service.port) is None
    service.close()


def test_what_is_missing_is_mended(routed: Routed) -> None:
    guest = routed.guest(5)
    routed.change(gateway=gateway())
    routed.lead(guest)
    host, space = routed.lab.host, names.router(routed.state.id)
    outside = routed.state.gateway
    assert outside is not None
    inner, outer = names.router_link(routed.state.interfaces[0].port_id), names.router_link(outside.port_id)
    service = service_in(guest)
    eventually(lambda: host.repair() == [])
    bridge = names.external(outside.network_id)
    recorded = routed.lab.folder / "network", routed.lab.config.network
    assert look.problems(*recorded) == []
    damages = [
        ["ip", "netns", "del", space],
        ["ip", "link", "del", inner],
        ["ip", "link", "set", inner, "nomaster"],
        ["ip", "link", "set", outer, "down"],
        ["ip", "link", "del", bridge],
        ["ip", "addr", "del", f"{HOST_SIDE}/24", "dev", bridge],
        ["ip", "-n", space, "route", "del", "default"],
        [
            "ip",
            "-n",
            space,
            "link",
            "set",
            names.router_gateway(outside.port_id),
            "address",
            "02:00:00:00:00:01",
        ],
        ["ip", "-n", space, "addr", "del", f"{FLOATING}/32", "dev", names.router_gateway(outside.port_id)],
        ["ip", "netns", "exec", space, "nft", "flush", "ruleset"],
        ["nft", "flush", "ruleset"],
        ["sysctl", "-qw", "net.ipv4.ip_forward=0"],
    ]
    for damage in damages:
        run(*damage)
        assert look.problems(*recorded) != [], damage
        assert host.repair() != [], damage
        eventually(lambda: host.repair() == [])
        assert look.problems(*recorded) == []
        assert reached(FLOATING, service.port, COMES), damage
    service.close()


def test_what_is_missing_when_a_word_comes_is_told_by_who_mends_it(routed: Routed) -> None:
    routed.change(gateway=gateway())
    eventually(lambda: routed.lab.host.repair() == [])
    run("ip", "netns", "del", names.router(routed.state.id))
    assert routed.apply(routed.state) == []
    mended = routed.lab.host.repair()
    assert [line for line in mended if line.startswith(f"router {routed.state.id}: ")]
    kept = findings.read(routed.lab.folder / "network" / findings.FILE)
    assert {one.what for one in kept if one.mended} >= set(mended)


def test_what_could_not_be_mended_is_looked_at_whatever_word_comes_between(
    routed: Routed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else may change on the host, that would have it looked at."""
    routed.change(gateway=(outside := gateway()))
    host, bridge = routed.lab.host, names.external(outside.network_id)
    eventually(lambda: host.repair() == [])

    def refuses(*_: object) -> list[str]:
        raise BuildFailed("not now")

    with monkeypatch.context() as patch:
        patch.setattr(External, "ensure_bridge", refuses)
        run("ip", "addr", "del", f"{HOST_SIDE}/24", "dev", bridge)
        for _ in range(3):
            assert host.repair() == []
    assert routed.apply(routed.state) == []
    assert [line for line in host.repair() if HOST_SIDE in line]


@pytest.mark.parametrize("what", ["namespace", "device"])
def test_what_goes_before_it_is_announced_again_is_mended(routed: Routed, what: str) -> None:
    routed.apply(routed.state)
    space, link = names.router(routed.state.id), names.router_link(routed.state.interfaces[0].port_id)
    run("ip", *(["netns", "del", space] if what == "namespace" else ["link", "del", link]))
    assert routed.lab.host.repair() != []
    assert linux.namespace_exists(space)
    assert link in devices()


def test_it_outlives_its_process_and_is_found_again(routed: Routed) -> None:
    guest = routed.guest(5)
    routed.change(gateway=gateway())
    routed.lead(guest)
    service = service_in(guest)
    routed.lab.host.stop()
    assert reached(FLOATING, service.port, COMES)
    routed.lab.start()
    assert routed.lab.host.repair() == []
    assert reached(FLOATING, service.port, COMES)
    service.close()


@pytest.mark.parametrize("moved", [True, False])
def test_what_went_with_the_machine_is_made_when_it_is_still_this_hosts(routed: Routed, moved: bool) -> None:
    """Until a conductor has said so, nobody hears of the addresses, which may be another host's by now."""
    routed.guest(5)
    routed.change(gateway=gateway())
    host, space = routed.lab.host, names.router(routed.state.id)
    host.stop()
    run("ip", "netns", "del", space)
    eventually(lambda: not [link for link in devices() if link.startswith(names.ROUTER_LINK)])
    host = routed.lab.start()
    host.repair()
    assert not linux.namespace_exists(space)
    assert not [link for link in devices() if link.startswith(names.ROUTER_LINK)]
    assert not [one for one in findings.read(routed.lab.folder / "network" / findings.FILE) if not one.mended]
    assert host.failed_routers() == []
    assert look.problems(routed.lab.folder / "network", routed.lab.config.network) != []
    routed.apply(*([] if moved else [routed.state]))
    assert linux.namespace_exists(space) is not moved
    eventually(lambda: host.repair() == [])
    assert look.problems(routed.lab.folder / "network", routed.lab.config.network) == []


def test_a_router_without_guests_here(routed: Routed) -> None:
    """Bridges come with whoever needs them first, and go with whoever needs them last."""
    routed.change(gateway=gateway())
    bridges = {names.bridge(routed.lab.network_id), names.bridge(routed.other_id)}
    assert bridges <= devices()
    guest = routed.guest(5)
    routed.lab.host.unplug(guest.vif.port_id)
    assert bridges <= devices()
    guest = routed.guest(6)
    routed.apply()
    assert names.bridge(routed.lab.network_id) in devices()
    assert names.bridge(routed.other_id) not in devices()
    routed.lab.host.unplug(guest.vif.port_id)
    assert devices() == {"lo"}


def test_two_routers_on_one_external_network(routed: Routed) -> None:
    guest = routed.guest(5)
    routed.change(gateway=gateway())
    routed.lead(guest)
    assert routed.state.gateway is not None
    second = RouterState(
        id=str(uuid4()),
        gateway=structs.replace(
            gateway(routed.state.gateway.network_id),
            mac="fa:16:3e:20:00:02",
            addresses=[RouterAddress(ip="198.51.100.11", cidr=PUBLIC)],
        ),
    )
    routed.apply(routed.state, second)
    run("busybox", "ping", "-c", "1", "-W", "3", "198.51.100.11")
    routed.apply(routed.state)
    service = service_in(guest)
    assert reached(FLOATING, service.port, COMES)
    service.close()


def test_an_interface_of_the_hosts_is_the_way_out(
    make_lab: Callable[..., Lab], internet: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The external network is the wire that the interface is on: its gateway, and who asks, are out there."""
    space = internet.space  # type: ignore[attr-defined]
    run("ip", "link", "add", "wire", "type", "veth", "peer", "eth1", "netns", space.name)
    try:
        space.run("ip", "addr", "add", f"{HOST_SIDE}/24", "dev", "eth1")
        space.run("ip", "link", "set", "eth1", "up")
        routed = Routed(make_lab(Config(network=Network(external_interface="wire"))))
        guest = routed.guest(5)
        run("ip", "link", "set", "wire", "name", "elsewhere")
        routed.change(gateway=gateway())
        assert routed.lab.host.failed_routers() == [], "it may come yet"
        monkeypatch.setattr(routers, "_PATIENCE", 0.0)
        assert routed.lab.host.failed_routers() == [routed.state.id]
        run("ip", "link", "set", "elsewhere", "name", "wire")
        routed.lab.host.repair()
        assert routed.lab.host.failed_routers() == []
        routed.lead(guest)
        service, out_there = service_in(guest), Service(space.inside, HOST_SIDE)
        assert space.inside(lambda: reached(FLOATING, service.port, COMES))
        assert guest.reaches(HOST_SIDE, out_there.port, seconds=COMES) == FLOATING
        routed.apply()
        service.close()
        out_there.close()
    finally:
        run("ip", "link", "del", "wire")


def devices() -> set[str]:
    return {link["ifname"] for link in json.loads(run("ip", "-j", "link"))}


def test_a_state_that_is_refused_keeps_no_other_from_its_host(routed: Routed) -> None:
    bad = RouterState(id=str(uuid4()), routes=[HostRoute(destination="drop", nexthop="all")])
    routed.apply(bad, routed.state)
    assert linux.namespace_exists(names.router(routed.state.id))
    assert not linux.namespace_exists(names.router(bad.id))
