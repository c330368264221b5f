"""A network or a subnet that changes under servers: their hosts, guests and records follow."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Network
from typing import Any

from tests.functional.builds.cloud import PATIENCE, Cloud
from tests.running import until

from kilonova.domain.addresses import eui64
from kilonova.domain.network import HostRoute, Vif


def change(cloud: Cloud, kind: str, item: str, **values: Any) -> None:
    status, answer = cloud.ask("PUT", f"/networking/v2.0/{kind}s/{item}", {kind: values})
    assert status == 200, answer


def followed(cloud: Cloud, as_it_should: Callable[[Vif], bool], what: str, count: int) -> None:
    """The hosts of all servers have the NICs so, and the records are no other than the hosts."""

    def plugged() -> list[Vif]:
        return [vif for host in cloud.hosts.values() for vif in host.network.plugged().values()]

    until(lambda: all(map(as_it_should, plugged())), PATIENCE, what)
    assert len(plugged()) == count
    for vif in plugged():
        with cloud.db.read() as conn:
            from kilonova.store import servers

            assert [own.wiring for own in servers.for_host(conn, vif.server_id or "").vifs] == [vif.wiring]


def test_what_changes_of_a_subnet_is_told_to_its_guests_hosts(two: Cloud) -> None:
    network = two.make_network()
    servers = [two.active(network) for _ in range(3)]
    (subnet,) = two.ask("GET", f"/networking/v2.0/subnets?network_id={network}")[1]["subnets"]
    route = {"destination": "10.200.0.0/16", "nexthop": "10.91.0.9"}
    change(two, "subnet", subnet["id"], dns_nameservers=["192.0.2.53"], host_routes=[route])

    def routed(vif: Vif) -> bool:
        own = vif.addresses[0].subnet
        return own.dns_nameservers == ["192.0.2.53"] and own.host_routes == [HostRoute(**route)]

    followed(two, routed, "name servers and routes", 3)
    pools = [{"start": "10.91.0.2", "end": "10.91.0.200"}]
    change(two, "subnet", subnet["id"], gateway_ip="10.91.0.254", allocation_pools=pools)
    followed(two, lambda vif: vif.addresses[0].subnet.gateway_ip == "10.91.0.254", "the gateway", 3)
    change(two, "subnet", subnet["id"], enable_dhcp=False)
    followed(two, lambda vif: vif.addresses[0].subnet.dhcp_address is None, "no DHCP", 3)
    change(two, "subnet", subnet["id"], enable_dhcp=True)
    followed(two, lambda vif: vif.addresses[0].subnet.dhcp_address is not None, "DHCP again", 3)
    two.delete(servers[0])
    two.gone(servers[0])
    change(two, "subnet", subnet["id"], dns_nameservers=[])
    followed(two, lambda vif: vif.addresses[0].subnet.dns_nameservers == [], "no name servers", 2)
    assert two.unexplained() == []


def test_what_changes_of_a_network_is_told_to_its_guests_hosts(cloud: Cloud) -> None:
    network = cloud.make_network()
    server = cloud.active(network)
    change(cloud, "network", network, name="blue", mtu=1300)
    followed(cloud, lambda vif: vif.mtu == 1300, "the MTU", 1)
    assert list(cloud.server(server)["addresses"]) == ["blue"]

    def links() -> list[bool]:
        return list(cloud.where(server).driver.interfaces(server).values())

    assert links() == [True]
    change(cloud, "network", network, admin_state_up=False)
    until(lambda: links() == [False], PATIENCE, "the link to go down with its network")
    change(cloud, "network", network, admin_state_up=True)
    until(lambda: links() == [True], PATIENCE, "the link to come up with its network")


def test_an_automatic_subnet_comes_and_goes_under_guests(two: Cloud) -> None:
    network = two.make_network()
    servers = [two.active(network) for _ in range(2)]
    asked = {"network_id": network, "cidr": "2001:db8:91::/64", "ip_version": 6}
    modes = {"ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}
    status, made = two.ask("POST", "/networking/v2.0/subnets", {"subnet": asked | modes})
    assert status == 201, made
    cidr = IPv6Network(asked["cidr"])  # type: ignore[arg-type]

    def automatic(vif: Vif) -> bool:
        return [one.ip for one in vif.addresses[1:]] == [str(eui64(cidr, vif.mac))]

    followed(two, automatic, "the address of its MAC", 2)
    (own,) = two.server(servers[0])["addresses"].values()
    shown = [(one["version"], one["addr"]) for one in own]
    assert [version for version, _ in shown] == [4, 6]
    (found,) = two.ask("GET", f"/compute/v2.1/servers?ip6={shown[1][1]}")[1]["servers"]
    assert found["id"] == servers[0]
    assert two.ask("DELETE", f"/networking/v2.0/subnets/{made['subnet']['id']}")[0] == 204
    followed(two, lambda vif: len(vif.addresses) == 1, "no such address", 2)
