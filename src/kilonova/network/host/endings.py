"""Which connections may go on, by the rules of the ports at their ends. Pure.

The kernel holds every packet of a connection's own direction against the rules (security.py), so a rule that
goes stops those at once. What answers would go on, as long as it comes: the connection itself must be closed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

import msgspec

from kilonova.domain.network import Vif
from kilonova.domain.security_groups import EGRESS, INGRESS, Filter
from kilonova.network.host.tracked import Connection
from kilonova.network.host.verdict import Judge, is_always_allowed


class Rights(msgspec.Struct, frozen=True):
    """What may pass to and from a port. ``zone`` is that of its bridge; ``filters`` None: all may."""

    vif: Vif
    zone: int
    filters: list[Filter] | None
    members: dict[str, list[str]]

    @property
    def addresses(self) -> set[str]:
        """Its own, and those of others that it may use. Not whole ranges that it may use: who uses an address
        of these, nobody can tell."""
        pairs = (pair.ip_address.partition("/") for pair in self.vif.allowed_address_pairs)
        hosts = {address for address, _, length in pairs if length in ("", "32", "128")}
        return hosts | {address.ip for address in self.vif.addresses}

    @property
    def dhcp_servers(self) -> set[str]:
        servers = (address.subnet.dhcp_address for address in self.vif.addresses)
        return {server for server in servers if server}


class View:
    """All ports of a host at one moment. ``zones``: zone of connections → its network."""

    def __init__(self, rights: Iterable[Rights], zones: Mapping[int, str]) -> None:
        self.ports = {one.vif.port_id: one for one in rights}
        self._zones = zones
        self._at: dict[tuple[str, str], list[Rights]] = defaultdict(list)
        for one in self.ports.values():
            if one.filters is None:
                continue
            for address in one.addresses:
                self._at[one.vif.network_id, address].append(one)
        self._judges: dict[str, Judge] = {}

    def changed(self, before: Mapping[str, Rights]) -> list[Rights]:
        """The ports of which something else, or more, was known before, or nothing."""
        return [one for port_id, one in self.ports.items() if before.get(port_id) != one]

    def zones_of(self, networks: Collection[str]) -> set[int]:
        return {zone for zone, network in self._zones.items() if network in networks}

    def allows(self, connection: Connection) -> bool:
        """Where several ports may use an address, any of them may have begun it, or be meant."""
        packet, network = connection.packet, self._zones.get(connection.zone)
        if network is None:
            return True
        senders = self._at.get((network, packet.source), [])
        receivers = self._at.get((network, packet.destination), [])
        servers = {server for one in (*senders, *receivers) for server in one.dhcp_servers}
        if is_always_allowed(packet, servers):
            return True
        return (not senders or any(self._judge(one).passes(packet, EGRESS) for one in senders)) and (
            not receivers or any(self._judge(one).passes(packet, INGRESS) for one in receivers)
        )

    def _judge(self, one: Rights) -> Judge:
        port_id = one.vif.port_id
        if port_id not in self._judges:
            self._judges[port_id] = Judge(one.filters or [], one.members)
        return self._judges[port_id]
