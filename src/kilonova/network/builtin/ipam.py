"""Which addresses a port gets. Every function runs inside the transaction that will write them.

The search goes round the pools and begins after the address given last: an address that was freed rests as
long as possible, and the next free one is found at once in a small subnet as in a /16.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network

import sqlalchemy as sa

from kilonova.domain.network import FixedIp, Network, Subnet
from kilonova.network.builtin import addressing
from kilonova.network.builtin.errors import (
    InvalidInput,
    InvalidIpForNetwork,
    InvalidIpForSubnet,
    IpAddressGenerationFailure,
    IpAddressInUse,
)
from kilonova.network.builtin.requests import FixedIpRequest
from kilonova.store import subnets as store


class Allocator:
    """Addresses out of one network's subnets, for the ports that one transaction makes.

    What it gave counts as taken before it is written. ``finish`` writes where the next search begins.
    """

    def __init__(self, conn: sa.Connection, network: Network, subnets: Sequence[Subnet]) -> None:
        self._conn = conn
        self._network = network
        self._subnets = {subnet.id: subnet for subnet in subnets}
        self._next = {subnet.id: subnet.next_number for subnet in subnets}
        self._given: set[tuple[str, int]] = set()
        self._moved: set[str] = set()

    def default(self) -> list[FixedIp]:
        """One address of the first subnet that has any; none where there is no subnet."""
        if not self._subnets:
            return []
        for subnet_id in self._subnets:
            if (address := self._pick(subnet_id)) is not None:
                return [address]
        raise self._exhausted()

    def requested(self, wanted: Sequence[FixedIpRequest]) -> list[FixedIp]:
        """Those addresses, first the ones that are named, so that no free choice takes one of them."""
        exact = {n: self._exact(ask) for n, ask in enumerate(wanted) if ask.ip_address is not None}
        return [exact.get(n) or self._any_of(ask) for n, ask in enumerate(wanted)]

    def gateway(self, subnet_id: str) -> FixedIp:
        """The subnet's gateway address, which is a router's and nobody else's. IpAddressInUse."""
        subnet = self._own(subnet_id)
        assert subnet.gateway_ip is not None, "a subnet with a gateway"
        self._claim(subnet, IPv4Address(subnet.gateway_ip))
        return FixedIp(subnet_id=subnet.id, ip_address=subnet.gateway_ip)

    def finish(self) -> None:
        if self._moved:
            store.search_from(self._conn, {subnet_id: self._next[subnet_id] for subnet_id in self._moved})

    def _any_of(self, ask: FixedIpRequest) -> FixedIp:
        if ask.subnet_id is None:
            raise InvalidInput("IP allocation requires subnet_id or ip_address")
        self._own(ask.subnet_id)
        address = self._pick(ask.subnet_id)
        if address is None:
            raise self._exhausted()
        return address

    def _exact(self, ask: FixedIpRequest) -> FixedIp:
        assert ask.ip_address is not None
        ip = addressing.parse_address(ask.ip_address, "fixed_ips")
        subnet = self._own(ask.subnet_id) if ask.subnet_id is not None else self._around(ip)
        first, last = addressing.hosts(IPv4Network(subnet.cidr))
        if not first <= int(ip) <= last:
            raise InvalidIpForSubnet(f"IP address {ip} is not a valid IP for the specified subnet.")
        if str(ip) == subnet.gateway_ip:
            raise self._in_use(ip)
        self._claim(subnet, ip)
        return FixedIp(subnet_id=subnet.id, ip_address=str(ip))

    def _claim(self, subnet: Subnet, ip: IPv4Address) -> None:
        key = (subnet.id, int(ip))
        if key in self._given or store.taken(self._conn, *key):
            raise self._in_use(ip)
        self._given.add(key)

    def _in_use(self, ip: IPv4Address) -> IpAddressInUse:
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

    def _around(self, ip: IPv4Address) -> Subnet:
        for subnet in self._subnets.values():
            if ip in IPv4Network(subnet.cidr):
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
                    return self._give(subnet_id, number)
                low = number + 1
        return None

    def _give(self, subnet_id: str, number: int) -> FixedIp:
        self._given.add((subnet_id, number))
        self._next[subnet_id] = number + 1
        self._moved.add(subnet_id)
        return FixedIp(subnet_id=subnet_id, ip_address=str(IPv4Address(number)))

    def _exhausted(self) -> IpAddressGenerationFailure:
        return IpAddressGenerationFailure(f"No more IP addresses available on network {self._network.id}.")
