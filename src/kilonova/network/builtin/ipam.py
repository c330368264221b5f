"""Which addresses a port gets. Every function runs inside the transaction that will write them.

The search goes round the pools and begins after the address given last: an address that was freed rests as
long as possible, and the next free one is found at once in a small subnet as in a /16 or a /64. In a subnet
with automatic addresses there is nothing to search: what a NIC gives itself comes of its MAC.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv6Network

import sqlalchemy as sa

from kilonova.domain.addresses import MAX_NUMBER, Address, address_at, eui64, number_of, parse_network
from kilonova.domain.network import FixedIp, Network, Subnet
from kilonova.network.builtin import addressing
from kilonova.network.builtin.errors import (
    AllocationOnAutoAddressSubnet,
    InvalidInput,
    InvalidIpForNetwork,
    InvalidIpForSubnet,
    IpAddressGenerationFailure,
    IpAddressGenerationFailureNoMatchingSubnet,
    IpAddressInUse,
)
from kilonova.network.builtin.requests import FixedIpRequest
from kilonova.store import subnets as store


class Allocator:
    """Addresses out of one network's subnets, for the ports that one transaction makes.

    What it gave counts as taken before it is written. ``finish`` writes where the next search begins.
    ``mac``: of the port, whose automatic addresses come of it. None: it gets none of these.
    ``owner``: the port's device owner, of which subnets with service types give or give not; who names a
    subnet or an address gets it all the same.
    """

    def __init__(
        self, conn: sa.Connection, network: Network, subnets: Sequence[Subnet], owner: str = ""
    ) -> None:
        self._owner = owner
        self._conn = conn
        self._network = network
        self._subnets = {subnet.id: subnet for subnet in subnets}
        self._next = {subnet.id: subnet.next_number for subnet in subnets}
        self._given: set[tuple[str, int]] = set()
        self._moved: set[str] = set()

    def default(self, mac: str | None = None) -> list[FixedIp]:
        """One address of each IP version, of the first subnet that has any, and those of its MAC."""
        if self._subnets and not self._fitting():
            raise IpAddressGenerationFailureNoMatchingSubnet(
                f"No valid service subnet for the given device owner, network {self._network.id}, service "
                f"type {self._owner}."
            )
        found = [self._first_of(version) for version in (4, 6)]
        return [*(one for one in found if one), *self._of_mac(mac, [])]

    def one_more(self) -> FixedIp:
        """Of the first subnet that has any."""
        for subnet in self._manual():
            if (address := self._pick(subnet.id)) is not None:
                return address
        raise self._exhausted()

    def requested(
        self, wanted: Sequence[FixedIpRequest], mac: str | None = None, *, only: bool = False
    ) -> list[FixedIp]:
        """Those addresses, first the ones that are named, so that no free choice takes one of them; then
        those of its MAC that were not named, unless ``only`` what is asked for is wanted."""
        exact = {n: self._exact(ask, mac) for n, ask in enumerate(wanted) if ask.ip_address is not None}
        found = [exact.get(n) or self._any_of(ask, mac) for n, ask in enumerate(wanted)]
        return found if only else found + self._of_mac(mac, found)

    def gateway(self, subnet_id: str) -> FixedIp:
        """The subnet's gateway address, which is a router's and nobody else's. IpAddressInUse."""
        subnet = self._own(subnet_id)
        assert subnet.gateway_ip is not None, "a subnet with a gateway"
        return self._claim(subnet, addressing.parse_address(subnet.gateway_ip, "gateway_ip"))

    def finish(self) -> None:
        if self._moved:
            store.search_from(self._conn, {subnet_id: self._next[subnet_id] for subnet_id in self._moved})

    def _fitting(self) -> list[Subnet]:
        """What the port may get unasked: first of subnets that are for its owner."""
        fitting = [subnet for subnet in self._subnets.values() if subnet.serves(self._owner)]
        return sorted(fitting, key=lambda subnet: not subnet.service_types)

    def _manual(self, version: int | None = None) -> list[Subnet]:
        own = [subnet for subnet in self._fitting() if not subnet.automatic]
        own.sort(key=lambda subnet: subnet.ip_version)
        return [subnet for subnet in own if version in (None, subnet.ip_version)]

    def _first_of(self, version: int) -> FixedIp | None:
        subnets = self._manual(version)
        for subnet in subnets:
            if (address := self._pick(subnet.id)) is not None:
                return address
        if subnets:
            raise self._exhausted()
        return None

    def _of_mac(self, mac: str | None, have: Sequence[FixedIp]) -> list[FixedIp]:
        named = {fixed.subnet_id for fixed in have}
        return [
            self._automatic(subnet, mac)
            for subnet in self._fitting()
            if mac is not None and subnet.automatic and subnet.id not in named
        ]

    def _automatic(self, subnet: Subnet, mac: str) -> FixedIp:
        return self._claim(subnet, eui64(IPv6Network(subnet.cidr), mac))

    def _any_of(self, ask: FixedIpRequest, mac: str | None) -> FixedIp:
        if ask.subnet_id is None:
            raise InvalidInput("IP allocation requires subnet_id or ip_address")
        subnet = self._own(ask.subnet_id)
        if subnet.automatic and mac is not None:
            return self._automatic(subnet, mac)
        address = self._pick(ask.subnet_id)
        if address is None:
            raise self._exhausted()
        return address

    def _exact(self, ask: FixedIpRequest, mac: str | None) -> FixedIp:
        assert ask.ip_address is not None
        ip = addressing.parse_address(ask.ip_address, "fixed_ips")
        subnet = self._own(ask.subnet_id) if ask.subnet_id is not None else self._around(ip)
        if not addressing.is_host(parse_network(subnet.cidr), ip):
            raise InvalidIpForSubnet(f"IP address {ip} is not a valid IP for the specified subnet.")
        if str(ip) == subnet.gateway_ip:
            raise self._in_use(ip)
        if subnet.automatic and (mac is None or ip != eui64(IPv6Network(subnet.cidr), mac)):
            raise AllocationOnAutoAddressSubnet(
                f"IPv6 address {ip} cannot be directly assigned to a port on subnet {subnet.id} as the "
                "subnet is configured for automatic addresses"
            )
        return self._claim(subnet, ip)

    def _claim(self, subnet: Subnet, ip: Address) -> FixedIp:
        key = (subnet.id, number_of(ip))
        if key in self._given or store.taken(self._conn, *key):
            raise self._in_use(ip)
        self._given.add(key)
        return FixedIp(subnet_id=subnet.id, ip_address=str(ip))

    def _in_use(self, ip: Address) -> IpAddressInUse:
        return IpAddressInUse(
            f"Unable to complete operation for network {self._network.id}. The IP address {ip} is in use."
        )

    def _own(self, subnet_id: str) -> Subnet:
        subnet = self._subnets.get(subnet_id)
        if subnet is None:
            raise InvalidInput(
                f"Failed to create port on network {self._network.id}, because fixed_ips included "
                f"invalid subnet {subnet_id}"
            )
        return subnet

    def _around(self, ip: Address) -> Subnet:
        for subnet in self._subnets.values():
            if ip in parse_network(subnet.cidr):
                return subnet
        raise InvalidIpForNetwork(
            f"IP address {ip} is not a valid IP for any of the subnets on the specified network."
        )

    def _pick(self, subnet_id: str) -> FixedIp | None:
        """A free address of the subnet's pools, or None."""
        subnet = self._subnets[subnet_id]
        for first, last in addressing.spans(subnet.allocation_pools, self._next[subnet_id]):
            low = first
            while low <= last:
                number = store.first_free(self._conn, subnet_id, low, last)
                if number is None:
                    break
                if (subnet_id, number) not in self._given:
                    return self._give(subnet, number)
                low = number + 1
        return None

    def _give(self, subnet: Subnet, number: int) -> FixedIp:
        self._given.add((subnet.id, number))
        self._next[subnet.id] = min(number + 1, MAX_NUMBER)
        self._moved.add(subnet.id)
        return FixedIp(subnet_id=subnet.id, ip_address=str(address_at(parse_network(subnet.cidr), number)))

    def _exhausted(self) -> IpAddressGenerationFailure:
        return IpAddressGenerationFailure(f"No more IP addresses available on network {self._network.id}.")
