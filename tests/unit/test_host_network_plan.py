"""The pure parts of the host's network: plans, DHCP files, the transit range, the release packet."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from kilonova.config import Network
from kilonova.domain.errors import BuildFailed
from kilonova.domain.network import AddressPair, HostRoute, Vif, VifAddress, VifSubnet
from kilonova.network.host import dhcp, firewall, release
from kilonova.network.host.plan import NetworkPlan, transit_count, transit_link
from kilonova.network.host.records import Records

NETWORK = str(uuid4())


def subnet(**changes: object) -> VifSubnet:
    plain = VifSubnet(id=str(uuid4()), cidr="10.0.0.0/24", gateway_ip="10.0.0.1", dhcp_address="10.0.0.2")
    return msgspec.structs.replace(plain, **changes)


def vif(*subnets: VifSubnet, **changes: object) -> Vif:
    made = Vif(
        port_id=str(uuid4()),
        network_id=NETWORK,
        mac="fa:16:3e:00:00:01",
        addresses=[VifAddress(ip=s.cidr.replace(".0/24", ".5"), subnet=s) for s in subnets],
    )
    return msgspec.structs.replace(made, **changes)


def plan(*vifs: Vif) -> NetworkPlan:
    return NetworkPlan(network_id=NETWORK, vifs=list(vifs))


class TestPlan:
    def test_addresses_dhcp_first_then_gateway_then_metadata(self) -> None:
        assert plan(vif(subnet())).addresses == ["10.0.0.2/24", "10.0.0.1/24", "169.254.169.254/32"]

    def test_a_subnet_without_either_still_has_a_way_back(self) -> None:
        alone = plan(vif(subnet(gateway_ip=None, dhcp_address=None, enable_dhcp=False)))
        assert alone.addresses == ["169.254.169.254/32"]
        assert alone.routes_to_guests == {"10.0.0.0/24"}
        assert alone.routed == []

    def test_the_smallest_mtu(self) -> None:
        assert plan(vif(subnet(), mtu=1400), vif(subnet(), mtu=1500)).mtu == 1400


class TestDhcpFiles:
    def test_hosts(self) -> None:
        one = vif(subnet(), hostname="web.example.org")
        two = vif(subnet(), hostname="not a name")
        lines = dhcp.hosts_file(plan(one, two)).decode().splitlines()
        assert sorted(lines) == ["fa:16:3e:00:00:01,10.0.0.5", "fa:16:3e:00:00:01,10.0.0.5,web"]

    def test_one_address_a_subnet(self) -> None:
        of = subnet()
        both = vif(of, addresses=[VifAddress(ip="10.0.0.5", subnet=of), VifAddress(ip="10.0.0.6", subnet=of)])
        assert dhcp.hosts_file(plan(both)) == b"fa:16:3e:00:00:01,10.0.0.5\n"

    def test_nothing_for_a_subnet_without_dhcp(self) -> None:
        off = plan(vif(subnet(enable_dhcp=False)))
        assert dhcp.hosts_file(off) == b""
        assert dhcp.options_file(off, []) == b""

    def test_routes(self) -> None:
        assert dhcp.classless_routes(subnet()) == "169.254.169.254/32,10.0.0.2,0.0.0.0/0,10.0.0.1"
        assert dhcp.classless_routes(subnet(gateway_ip=None)) == "169.254.169.254/32,10.0.0.2"
        own = HostRoute(destination="0.0.0.0/0", nexthop="10.0.0.9")
        assert (
            dhcp.classless_routes(subnet(host_routes=[own]))
            == "0.0.0.0/0,10.0.0.9,169.254.169.254/32,10.0.0.2"
        )

    def test_name_servers_of_the_subnet_come_first(self) -> None:
        lines = dhcp.options_file(plan(vif(subnet(dns_nameservers=["192.0.2.1"]))), ["192.0.2.9"]).decode()
        assert "option:dns-server,192.0.2.1\n" in lines
        assert "192.0.2.9" not in lines
        assert (
            "option:dns-server,192.0.2.9\n" in dhcp.options_file(plan(vif(subnet())), ["192.0.2.9"]).decode()
        )

    def test_command_names_every_range(self, tmp_path: Path) -> None:
        ranges = plan(vif(subnet(), subnet(cidr="10.1.0.0/24", dhcp_address="10.1.0.2")))
        command = dhcp.command(ranges, tmp_path, Network(dhcp_lease_time=600))
        assert sum(word.startswith("--dhcp-range=set:subnet-") for word in command) == 2
        assert any(word.endswith(",10.1.0.0,static,255.255.255.0,600s") for word in command)

    def test_a_guest_writes_no_log(self, tmp_path: Path) -> None:
        quiet = {"--quiet-dhcp", "--quiet-dhcp6", "--quiet-ra"}
        assert quiet <= set(dhcp.command(plan(vif(subnet())), tmp_path, Network()))

    def test_resolvers_on_loopback_are_no_use_to_a_guest(self, tmp_path: Path) -> None:
        stub, real = tmp_path / "stub", tmp_path / "real"
        stub.write_text("nameserver 127.0.0.53\n")
        real.write_text("# comment\nnameserver 192.0.2.53\nnameserver 2001:db8::1\n")
        assert dhcp.host_resolvers([str(stub), str(real)]) == ["192.0.2.53"]
        assert dhcp.host_resolvers([str(stub), str(tmp_path / "none")]) == []

    def test_release_packet(self) -> None:
        packet = release.message("fa:16:3e:00:00:01", "10.0.0.5", "10.0.0.2")
        assert packet[:4] == bytes([1, 1, 6, 0])
        assert packet[12:16] == bytes([10, 0, 0, 5])
        assert packet[28:34] == bytes.fromhex("fa163e000001")
        assert packet[236:] == b"\x63\x82\x53\x63" + bytes([53, 1, 7, 54, 4, 10, 0, 0, 2, 255])


class TestTransit:
    def test_links(self) -> None:
        assert transit_count("100.127.0.0/16") == 32768
        link = transit_link("100.127.0.0/16", 1)
        assert (link.host, link.namespace) == ("100.127.0.2", "100.127.0.3")

    def test_each_network_keeps_its_own(self, tmp_path: Path) -> None:
        records = Records(tmp_path)
        networks = [str(uuid4()) for _ in range(7)]
        given = {network: records.transit(network, 8, lambda index: True) for network in networks}
        assert sorted(given.values()) == list(range(1, 8))
        assert {n: Records(tmp_path).transit(n, 8, lambda index: True) for n in networks} == given
        with pytest.raises(BuildFailed, match="transit_cidr"):
            records.transit(str(uuid4()), 8, lambda index: True)

    def test_what_the_host_uses_is_left_alone(self, tmp_path: Path) -> None:
        assert Records(tmp_path).transit(str(uuid4()), 8, lambda index: index == 5) == 5


class TestRecords:
    def test_another_process_finds_them(self, tmp_path: Path) -> None:
        one = vif(subnet())
        Records(tmp_path).put(one)
        assert Records(tmp_path).vifs() == {one.port_id: one}

    def test_a_torn_file_is_removed(self, tmp_path: Path) -> None:
        Records(tmp_path)
        torn = tmp_path / "ports" / f"{uuid4()}.json"
        torn.write_bytes(b"")
        assert Records(tmp_path).vifs() == {}
        assert not torn.exists()


def test_no_port_no_element() -> None:
    """One rule set for every port: a port with nothing but its MAC may only ask for DHCP."""
    table = firewall.bridge_table("t", [vif()], {})
    rules = {rule.comment: rule.expressions for rule in table.chains[-1].rules}
    assert "IPv4 only of its MAC and IP" not in rules
    assert list(rules)[-1] == "nothing else"


def test_pairs_within_pairs_are_one() -> None:
    pairs = [AddressPair(ip_address="10.0.0.0/24"), AddressPair(ip_address="10.0.0.7")]
    table = firewall.bridge_table("t", [vif(subnet(), allowed_address_pairs=pairs)], {})
    only = next(rule for rule in table.chains[-1].rules if rule.comment == "IPv4 only of its MAC and IP")
    assert only.expressions[1]["match"]["right"] == {
        "set": [{"concat": ["fa:16:3e:00:00:01", {"prefix": {"addr": "10.0.0.0", "len": 24}}]}]
    }
