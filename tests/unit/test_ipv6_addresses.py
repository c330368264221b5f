"""IPv6 in the control plane's arithmetic: numbers of 64 bits, EUI-64, the table of modes, IPAM."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from kilonova.domain import addresses
from kilonova.network.builtin import addressing, ipv6_modes, ports
from kilonova.network.builtin.errors import InvalidInput, IpAddressInUse
from kilonova.network.builtin.requests import SubnetCreate

from .test_ipam import ALICE, give_back, make_subnet, service, take

LOWER = st.integers(0, 2**64 - 1)


@given(st.integers(0, 2**64 - 1), LOWER, LOWER)
def test_a_number_is_a_bigint_and_keeps_the_order(upper: int, one: int, other: int) -> None:
    network = IPv6Network((upper << 64, 64))
    first, second = (IPv6Address(upper << 64 | lower) for lower in (one, other))
    numbers = addresses.number_of(first), addresses.number_of(second)
    assert all(-(2**63) <= number < 2**63 for number in numbers)
    assert (numbers[0] < numbers[1]) == (first < second)
    assert addresses.address_at(network, numbers[0]) == first


@given(st.ip_addresses(v=4))
def test_a_number_of_ipv4_is_the_address(address: IPv4Address) -> None:
    assert addresses.number_of(address) == int(address)
    assert addresses.address_at(IPv4Network("0.0.0.0/0"), int(address)) == address


@pytest.mark.parametrize(
    ("mac", "identifier"),
    [  # the first of RFC 4291, appendix A
        ("34:56:78:9a:bc:de", "3656:78ff:fe9a:bcde"),
        ("fa:16:3e:00:00:01", "f816:3eff:fe00:1"),
        ("02:00:00:00:00:00", "0:ff:fe00:0"),
    ],
)
def test_the_address_of_a_mac(mac: str, identifier: str) -> None:
    wanted = IPv6Address(f"2001:db8:1:2:{identifier}")
    assert addresses.eui64(IPv6Network("2001:db8:1:2::/64"), mac) == wanted
    assert addresses.link_local(mac) == str(IPv6Address(f"fe80::{identifier}"))


@given(st.integers(64, 126), st.data())
def test_default_pools_are_every_address_but_the_first_and_the_gateway(
    length: int, data: st.DataObject
) -> None:
    network = ip_network(f"2001:db8:1:2:3:4::/{length}", strict=False)
    assert isinstance(network, IPv6Network)
    first, last = addressing.hosts(network)
    gateway = data.draw(st.none() | st.integers(first, last).map(lambda n: addresses.address_at(network, n)))
    pools = addressing.default_pools(network, gateway)
    assert addressing.check_pools(network, gateway, pools) == pools
    given_out = sum(int(IPv6Address(pool.end)) - int(IPv6Address(pool.start)) + 1 for pool in pools)
    assert given_out == network.num_addresses - 1 - (gateway is not None)


MODES = (None, "slaac", "dhcpv6-stateful", "dhcpv6-stateless")


@pytest.mark.parametrize("address_mode", MODES)
@pytest.mark.parametrize("ra_mode", MODES)
def test_the_table_of_modes(ra_mode: str | None, address_mode: str | None) -> None:
    """Both alike, or one of them; with DHCP; what comes of the MAC in a /64 alone."""

    def fine(cidr: str, **more: object) -> bool:
        asked = {"ipv6_ra_mode": ra_mode, "ipv6_address_mode": address_mode, "ip_version": 6} | more
        body = SubnetCreate(network_id="n", **asked)  # type: ignore[arg-type]
        try:
            ipv6_modes.check(body, ip_network(cidr))
        except InvalidInput:
            return False
        return True

    none = ra_mode is None and address_mode is None
    combine = None in (ra_mode, address_mode) or ra_mode == address_mode
    automatic = {ra_mode, address_mode} & {"slaac", "dhcpv6-stateless"}
    assert fine("2001:db8::/64") == combine
    assert fine("2001:db8::/80") == (combine and not automatic)
    assert fine("2001:db8::/64", enable_dhcp=False) == none
    assert fine("10.0.0.0/24", ip_version=4) == none


def test_a_mode_that_there_is_none_of() -> None:
    with pytest.raises(InvalidInput, match="not in"):
        ipv6_modes.check(
            SubnetCreate(network_id="n", ip_version=6, ipv6_ra_mode="radvd"), ip_network("2001:db8::/64")
        )


@pytest.mark.parametrize(
    "cidr",
    [
        "fe80::/64",
        "ff02::/64",
        "::/64",
        "::ffff:0:0/96",
        "2001:db8::/63",
        "2001:db8::/127",
        "2001:db8::1/64",
        "2001:db8::%1/64",
        "10.0.0.0/24",
    ],
)
def test_what_is_no_subnet_of_guests(cidr: str) -> None:
    with pytest.raises(InvalidInput):
        addressing.parse_cidr(cidr, 6, [])


def test_the_last_address_of_a_subnet_is_given_out_and_then_the_first(tmp_path: Path) -> None:
    pool = [{"start": "2001:db8::ffff:ffff:ffff:fffd", "end": "2001:db8::ffff:ffff:ffff:ffff"}]
    with service(tmp_path / "db") as network:
        net = make_subnet(
            network,
            cidr="2001:db8::/64",
            ip_version=6,
            gateway_ip="2001:db8::1",
            allocation_pools=[addressing.Pool(**one) for one in pool],
        )
        taken = [take(network, net) for _ in range(3)]
        assert [ip[-4:] for _, ip in taken] == ["fffd", "fffe", "ffff"]
        give_back(network, taken[1][0])
        assert take(network, net)[1] == taken[1][1]


def test_an_address_in_another_spelling_is_the_same(tmp_path: Path) -> None:
    with service(tmp_path / "db") as network:
        net = make_subnet(network, cidr="2001:db8::/64", ip_version=6)
        port, ip = take(network, net, "2001:0DB8:0:0:0:0:0:00A1")
        assert ip == "2001:db8::a1"
        with network.db.read() as conn:
            assert ports.find(conn, ALICE, port).fixed_ips[0].ip_address == ip
        with pytest.raises(IpAddressInUse, match="in use"):
            take(network, net, "2001:db8:0::A1")


def test_nothing_said_is_no_mode() -> None:
    assert ipv6_modes.of(UNSET) is None
