"""Security groups on a host, with real packets between guests that are namespaces."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_interface
from pathlib import Path
from unittest import mock
from uuid import UUID, uuid4

import pytest
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket
from tests.openvswitch import installed
from tests.plugs import KINDS, PlugLab, plug_lab
from tests.system.host_network.lab import COMES, Guest, Service, eventually

from kilonova.domain.network import NetworkState, PortSecurity
from kilonova.domain.security_groups import IPV4, IPV6, Filter
from kilonova.network.host import audit, nft, tracked
from kilonova.network.host.switch import openflow
from kilonova.network.host.switch.flows import MARKER, RULES

pytestmark = pytest.mark.system

WEB, CLIENTS = "11111111-0000-4000-8000-000000000000", "22222222-0000-4000-8000-000000000000"
OUT = Filter(direction="egress", ethertype=IPV4)


def tcp(port: int, remote_group: str | None = None) -> Filter:
    return Filter(
        direction="ingress",
        ethertype=IPV4,
        protocol=6,
        port_min=port,
        port_max=port,
        remote_group=remote_group,
    )


class Two:
    """``web`` is in the group of that name, ``client`` among the clients."""

    def __init__(self, lab: PlugLab) -> None:
        self.lab, self.kind = lab, lab.kind
        self.web, self.client = (lab.guest(number, security_groups=[]) for number in (5, 6))
        for guest in (self.web, self.client):
            guest.set_address()
        self.service = Service(self.web.inside, "0.0.0.0")

    def tell(
        self,
        *ingress: Filter,
        members: tuple[str, ...] = (),
        out: tuple[Filter, ...] = (OUT,),
        guarded: bool = True,
    ) -> None:
        """What comes in to the web from now on, and goes out of the clients."""
        groups = {self.web: WEB, self.client: CLIENTS}
        state = NetworkState(
            ports=[
                PortSecurity(port_id=guest.vif.port_id, port_security=guarded, security_groups=[group])
                for guest, group in groups.items()
            ],
            groups={WEB: [OUT, *ingress], CLIENTS: list(out)},
            members={CLIENTS: list(members)},
        )
        self.lab.host.refresh(state, time.monotonic())

    def reaches(self) -> bool:
        return self.client.reaches(self.web.ip, self.service.port, 0.5) is not None

    def is_loaded(self) -> bool:
        """Just what should be, whatever is not is set right."""
        host = self.lab.host
        tables = [line for table in host._perimeter._tables() for line in audit.problems(table)]
        return tables + host._plug.settle() == []

    @contextmanager
    def connection(
        self, port: int, client: Guest | None = None
    ) -> Iterator[tuple[socket.socket, socket.socket]]:
        """The client's end and the web's."""
        with self.web.inside(lambda: socket.create_server(("0.0.0.0", port))) as server:
            to = (self.web.ip, port)
            with (client or self.client).inside(lambda: socket.create_connection(to, timeout=COMES)) as one:
                other, _ = server.accept()
                with other:
                    yield one, other


@pytest.fixture(params=KINDS)
def two(request: pytest.FixtureRequest) -> Iterator[Two]:
    if request.param != "bridge" and not installed():
        pytest.skip("Open vSwitch is not installed")
    with plug_lab(request.param) as lab:
        yield from two_in(lab)


def two_in(lab: PlugLab) -> Iterator[Two]:
    made = Two(lab)
    yield made
    made.service.close()


def passes(sender: socket.socket, receiver: socket.socket, seconds: float = COMES) -> bool:
    sender.sendall(b"x")
    receiver.settimeout(seconds)
    try:
        return receiver.recv(1) == b"x"
    except TimeoutError:
        return False


def test_what_comes_in_and_out(two: Two) -> None:
    assert not two.reaches(), "nothing was told of the groups yet"
    two.tell()
    assert not two.reaches()
    two.tell(tcp(two.service.port + 1))
    assert not two.reaches()
    two.tell(tcp(two.service.port))
    assert eventually(two.reaches)
    two.tell(tcp(two.service.port), out=())
    assert not two.reaches(), "nothing goes out of the clients"
    two.tell(tcp(two.service.port, remote_group=CLIENTS))
    assert not two.reaches()
    two.tell(tcp(two.service.port, remote_group=CLIENTS), members=("10.77.0.0/16", two.client.ip))
    assert eventually(two.reaches)
    assert two.is_loaded()


def test_ranges_of_an_address_group(two: Two) -> None:
    """To a host the addresses of an address group are members: some within others, and all there are."""
    rule = tcp(two.service.port, remote_group=CLIENTS)
    range_of = str(ip_interface(f"{two.client.ip}/29").network)
    for members, let_in in [
        ((range_of, f"{two.client.ip}/32", "10.0.0.0/8", "fd00::/8", "fd00::1/128"), True),
        (("192.0.2.0/24",), False),
        (("0.0.0.0/0", "::/0"), True),
        (("0.0.0.0/0", range_of, "192.0.2.1/32"), True),
        (("::/0",), False),
        ((), False),
    ]:
        two.tell(rule, members=members)
        assert eventually(two.reaches) if let_in else not two.reaches(), members
        assert two.is_loaded(), members


def test_a_connection_lives_as_long_as_it_is_allowed(two: Two) -> None:
    two.tell(tcp(5001))
    with two.connection(5001) as (client, web):
        two.tell(tcp(5001), tcp(80))
        assert passes(client, web)
        assert passes(web, client)
        two.lab.restart()
        assert passes(web, client)
        two.tell(tcp(80))
        assert not arrives(web, client, b"y", 0.5), "not even what answers"
        assert not arrives(client, web, b"y", 0.5)


def test_a_guest_does_not_take_up_again_what_was_closed(two: Two) -> None:
    """It may go out, the other end is nobody's business, and it is the guest who speaks first."""
    anybody = two.lab.guest(7, port_security=False)
    anybody.set_address()
    two.tell(tcp(5001))
    with two.connection(5001, anybody) as (client, web):
        for again in (lambda: two.tell(tcp(5001)), lambda: two.tell(guarded=False)):
            two.tell()
            assert not arrives(web, client, b"a", 0.3)
            assert not arrives(client, web, b"b", 0.3)
            two.lab.restart()
            assert not arrives(web, client, b"c", 0.3)
            again()
            assert arrives(web, client, b"d", 30)
            assert arrives(client, web, b"e", 30)


def arrives(sender: socket.socket, receiver: socket.socket, word: bytes, seconds: float) -> bool:
    """The word, and all that was sent before it."""
    sender.sendall(word)
    receiver.settimeout(seconds)
    try:
        while heard := receiver.recv(99):
            if heard.endswith(word):
                return True
    except TimeoutError:
        pass
    return False


def test_a_connection_that_was_forgotten_behind_our_back(two: Two) -> None:
    """As by ``conntrack -F``: who may begin it goes on with it, and answers come; no other way is open."""
    two.tell(tcp(9000))
    with two.connection(9000) as (one, other):
        assert passes(one, other)
        forget_all(two.lab)
        assert passes(one, other)
        assert passes(other, one)
        two.tell()
        forget_all(two.lab)
        assert not passes(one, other, 3)
    assert two.lab.host.repair() == []


def forget_all(lab: PlugLab) -> None:
    if lab.kind == "ovs":
        lab.switch.appctl("dpctl/flush-conntrack")
    with NFCTSocket() as tracking:  # type: ignore[no-untyped-call]
        tracking.flush()


def test_a_connection_ends_though_the_rules_were_loaded_for_another_port(two: Two) -> None:
    two.tell(tcp(5001))
    with two.connection(5001) as (client, web):
        assert passes(client, web)
        closed = NetworkState(groups={WEB: [OUT]})
        two.lab.host._knowledge.learn(closed, time.monotonic())
        two.lab.guest(7, security_groups=[])  # its plug loads all that is known
        two.lab.host.refresh(closed, time.monotonic())
        assert not passes(web, client, 3)


def test_a_port_is_never_open_while_its_rules_change(two: Two) -> None:
    """Each change is one transaction: what no rule allows is never let in, whenever it is tried."""
    two.tell(tcp(1))
    tries = 0
    end = time.monotonic() + 1.5
    while tries < 6 or time.monotonic() < end:
        two.tell(tcp(1 + tries % 3))
        assert two.client.reaches(two.web.ip, two.service.port, 0.02) is None
        tries += 1
    with transactions() as seen:
        two.tell(tcp(7), tcp(8, remote_group=CLIENTS), members=(two.client.ip,), out=())
    assert len(seen) == 1, seen


@contextmanager
def transactions() -> Iterator[list[str]]:
    """Changes of rules, nft's and the switch's, while the block runs."""
    seen: list[str] = []
    apply, change = nft.apply, openflow.change

    def by_nft(commands: list[nft.Command]) -> None:
        seen.append(f"nft: {commands}")
        apply(commands)

    def by_the_switch(control: Path, commands: list[str]) -> None:
        if any(f"table={MARKER}" not in line for line in commands):
            seen.append(f"switch: {commands}")
        change(control, commands)

    with mock.patch.object(nft, "apply", by_nft), mock.patch.object(openflow, "change", by_the_switch):
        yield seen


def test_flushed_or_changed_rules_are_loaded_again(two: Two) -> None:
    two.tell(tcp(two.service.port, remote_group=CLIENTS), members=(two.client.ip,))
    for damage in damages(two.lab):
        damage()
        eventually(two.lab.host.repair)
        assert two.is_loaded()
        assert eventually(two.reaches)
    if two.kind != "ovs":
        damages(two.lab)[0]()
        two.tell(tcp(80))  # before anybody has noticed
        assert two.is_loaded()
        assert not two.reaches()


def damages(lab: PlugLab) -> list[Callable[[], object]]:
    """All that is loaded, and what one group lets in."""
    if lab.kind == "ovs":
        group = f"xxreg1=0x{UUID(WEB).int:x}"
        return [
            lambda: lab.switch.run("ovs-ofctl", "del-flows", lab.control),
            lambda: lab.switch.run("ovs-ofctl", "del-flows", lab.control, f"table={RULES},{group}"),
        ]
    chain = {"family": "bridge", "table": lab.host._perimeter._table, "name": f"group-ingress-{WEB}"}
    return [
        lambda: nft.apply([{"flush": {"ruleset": None}}]),
        lambda: nft.apply([{"flush": {"chain": chain}}]),
    ]


def loaded(lab: PlugLab) -> str:
    """What says who may pass; ids are in it."""
    if lab.kind != "ovs":
        return str(nft.listed("bridge", lab.host._perimeter._table))
    flows = "".join(lab.switch.flows())
    for group in (WEB, CLIENTS):
        flows = flows.replace(registers(4, group), group)
        flows = flows.replace(f"{registers(8, group)},reg12", f"members-ip-{group}")
    return flows


def registers(first: int, group: str) -> str:
    """A group's id, as the switch lists it."""
    words = [int(UUID(group).hex[at : at + 8], 16) for at in range(0, 32, 8)]
    return ",".join(
        f"reg{first + at}={word:#x}" if word else f"reg{first + at}=0" for at, word in enumerate(words)
    )


def test_what_nobody_uses_is_not_loaded(two: Two) -> None:
    everything = Filter(direction="ingress", ethertype=IPV6, protocol=58, port_min=128, port_max=0)
    senseless = Filter(direction="ingress", ethertype=IPV6, protocol=1, port_min=8, port_max=0)
    rules = tcp(1, remote_group=CLIENTS), everything, senseless, tcp(two.service.port)
    two.tell(*rules, members=(two.client.ip, "fd00::1"))
    assert two.is_loaded()
    assert eventually(two.reaches), "all of them were taken"
    listed, members = loaded(two.lab), f"members-ip-{CLIENTS}"
    assert (WEB in listed, members in listed, CLIENTS in listed) == (True, True, True)
    two.lab.host.unplug(two.web.vif.port_id)
    listed = loaded(two.lab)
    assert (WEB in listed, members in listed, CLIENTS in listed) == (False, False, True)
    assert two.is_loaded()


def test_networks_with_the_same_addresses_do_not_meet(two: Two) -> None:
    """The same datagram in both is of two connections for the kernel: who answers in the one answers nobody
    in the other."""
    lab = two.lab
    network = str(uuid4())
    web, client = (lab.guest(number, network_id=network, security_groups=[]) for number in (5, 6))
    for guest in (web, client):
        guest.set_address()
    two.tell(everything := Filter(direction="ingress", ethertype=IPV4))
    ports = [
        PortSecurity(port_id=guest.vif.port_id, port_security=True, security_groups=[group])
        for guest, group in ((web, WEB), (client, CLIENTS))
    ]
    lab.host.refresh(NetworkState(ports=ports, groups={WEB: [OUT, everything]}), time.monotonic())
    sockets = [guest.inside(lambda: bound(5300)) for guest in (two.client, two.web, client, web)]
    here, there, elsewhere, stranger = sockets
    try:
        here.sendto(b"ask", (two.web.ip, 5300))
        assert there.recv(9) == b"ask"
        stranger.sendto(b"answer", (client.ip, 5300))
        elsewhere.settimeout(0.5)
        with pytest.raises(TimeoutError):
            elsewhere.recv(9)
        there.sendto(b"answer", (two.client.ip, 5300))
        assert here.recv(9) == b"answer"
    finally:
        for one in sockets:
            one.close()
    if two.kind != "bridge":
        return  # each port has a zone of its own
    zones = {lab.host._records.zone(id_) for id_ in (network, lab.network_id)}
    found = [one for one in tracked.connections(zones) if one.packet.port == 5300]
    assert {one.zone for one in found} == {lab.host._records.zone(lab.network_id)}


def bound(port: int) -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.bind(("0.0.0.0", port))
    one.settimeout(COMES)
    return one
