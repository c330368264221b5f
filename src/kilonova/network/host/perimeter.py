"""What all networks of a host share: its two firewall tables and net.ipv4.ip_forward.

Holds in memory what should be loaded, under one lock, so that a repair never mistakes a change under way for
damage. Every change is one transaction: the difference between what is loaded and what should be.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

from kilonova.config import Network
from kilonova.domain.errors import BuildFailed
from kilonova.domain.network import Vif
from kilonova.domain.security_groups import EGRESS, INGRESS, Filter
from kilonova.network.host import audit, firewall, flows, names, nft, security, verdict
from kilonova.network.host.forwarding import Forwarding
from kilonova.network.host.knowledge import Knowledge
from kilonova.network.host.plug import Filters, Plug

_OWNER = "networks"
_Tables = tuple[nft.Table, ...]


class Perimeter:
    """``zone_of``: the number that a network's or a port's connections have on this host, always the same."""

    def __init__(
        self,
        config: Network,
        forwarding: Forwarding,
        folder: Path,
        vifs: dict[str, Vif],
        knowledge: Knowledge,
        zone_of: Callable[[str], int],
        plug: Plug,
    ) -> None:
        self._config = config
        self._plug = plug
        self._forwarding = forwarding
        self._table = f"kilonova-{crc32(str(folder.resolve()).encode()):08x}"
        self._vifs = dict(vifs)
        self._knowledge = knowledge
        self._zone_of = zone_of
        self._lock = threading.Lock()
        self._loaded: _Tables | None = None
        """What this process has loaded, or seen loaded."""
        self._uncut = True
        """There may be connections that what is loaded does not allow; so it is after a kill -9, too."""
        self._made = _Memo()

    def admit(self, vif: Vif) -> None:
        """The port's rules are loaded, and its network's."""
        with self._lock:
            self._vifs[vif.port_id] = vif
            self._ensure_forwarding()
            self._load()

    def holds(self, port_id: str) -> bool:
        with self._lock:
            return port_id in self._vifs

    def dismiss(self, vif: Vif) -> None:
        """None of the port's rules is left; with a network's last port, none of the network's; with the
        last network, no table, and the host forwards as it did before."""
        with self._lock:
            self._vifs.pop(vif.port_id, None)
            self._made.forget(vif.port_id)
            if self._vifs:
                self._load()
            else:
                self._remove()

    def refresh(self) -> None:
        """The rules are as is known by now, and no connection is left that they do not allow. What the plug
        guards, it is told by joining the ports again (host.py)."""
        with self._lock:
            if not self._vifs:
                return
            self._load()
            if self._uncut:
                self._cut()

    def start(self) -> None:
        """Nothing is left of an earlier run if there is no port any more, nor what another plug needed."""
        with self._lock:
            if not self._vifs:
                self._remove()
            elif not self._guards:
                nft.apply(nft.delete_table("bridge", self._table))

    def ensure(self, *, rules: bool) -> list[str]:
        """All is as it should be, the rules too if asked; a line for each thing that was not."""
        with self._lock:
            done = self._ensure_forwarding()
            if not self._vifs or not rules:
                return done
            wanted = self._tables()
            problems = [line for table in wanted for line in audit.problems(table)]
            if problems:
                self._replace_all(wanted)
                self._cut()
            self._loaded = wanted
            return done + problems

    def _remove(self) -> None:
        self._loaded = None
        nft.apply([c for family in ("bridge", "inet") for c in nft.delete_table(family, self._table)])
        self._forwarding.release(_OWNER)

    def _ensure_forwarding(self) -> list[str]:
        if not self._config.nat or not any(_leads_out(vif) for vif in self._vifs.values()):
            return []
        return self._forwarding.hold(_OWNER)

    def _load(self) -> None:
        """What should be loaded is."""
        wanted, loaded = self._tables(), self._loaded
        if loaded is None:
            # The first port of all, or of this process: whatever is there is replaced.
            self._replace_all(wanted)
            return
        pairs = zip(loaded, wanted, strict=True)
        commands = [command for before, after in pairs for command in nft.difference(before, after)]
        if not commands:
            return
        self._uncut = True
        try:
            nft.apply(commands)
        except BuildFailed:
            # Somebody flushed the tables.
            self._replace_all(wanted)
        self._loaded = wanted

    def _replace_all(self, wanted: _Tables) -> None:
        self._uncut = True
        nft.apply([command for table in wanted for command in nft.replace(table)])
        self._loaded = wanted

    @property
    def _guards(self) -> bool:
        """Whether what passes to and from guests is said here, in the family bridge; else the plug sees to
        it."""
        return self._plug.filters is Filters.BRIDGE

    def _tables(self) -> _Tables:
        """All that should be loaded."""
        vifs = list(self._vifs.values())
        host = firewall.host_table(
            self._table,
            [names.transit(network) for network in sorted({vif.network_id for vif in vifs})],
            self._zones(vifs),
            self._config.transit_cidr,
            self._config.nat,
        )
        return (self._bridge_table(vifs), host) if self._guards else (host,)

    def _bridge_table(self, plugged: list[Vif]) -> nft.Table:
        vifs = [self._knowledge.applied(vif) for vif in plugged]
        ids = sorted({group for vif in vifs if vif.port_security for group in vif.security_groups or ()})
        filters = {group: self._knowledge.filters(group) for group in ids}
        remotes = sorted({remote for rules in filters.values() for remote in security.remotes_of(rules)})
        return firewall.bridge_table(
            self._table,
            vifs,
            sorted({device for vif in vifs for device in self._plug.inner(vif)}),
            {group: self._made.group(group, rules) for group, rules in filters.items()},
            [one for group in remotes for one in self._members(group)],
            self._made.port,
        )

    def _members(self, group: str) -> list[nft.Set]:
        return self._made.members(group, self._knowledge.members(group))

    def _zones(self, vifs: list[Vif]) -> dict[str, int]:
        """Bridge → the zone of its connections."""
        bridges = sorted({bridge for vif in vifs if (bridge := self._plug.bridge(vif))})
        return {bridge.name: self._zone_of(bridge.owner) for bridge in bridges}

    def _cut(self) -> None:
        """End the connections that the rules of either end do not allow any more, in the zones of both: where
        each port has its own, the other end's would go on to take what comes for an answer."""
        networks: dict[int, str] = {}
        own: dict[tuple[str, str], Vif] = {}
        for vif in map(self._knowledge.applied, self._vifs.values()):
            if bridge := self._plug.bridge(vif):
                networks[self._zone_of(bridge.owner)] = vif.network_id
            if vif.port_security and vif.security_groups is not None:
                own |= {(vif.network_id, address.ip): vif for address in vif.addresses}

        def allowed(flow: flows.Flow) -> bool:
            packet, network = flow.packet, networks[flow.zone]
            source, destination = own.get((network, packet.source)), own.get((network, packet.destination))
            return verdict.is_always_allowed(packet) or (
                (source is None or self._passes(packet, EGRESS, source))
                and (destination is None or self._passes(packet, INGRESS, destination))
            )

        flows.cut(set(networks), allowed)
        self._uncut = False

    def _passes(self, packet: verdict.Packet, direction: str, vif: Vif) -> bool:
        filters = [one for group in vif.security_groups or () for one in self._knowledge.filters(group)]
        members = {remote: self._knowledge.members(remote) for remote in security.remotes_of(filters)}
        return verdict.passes(packet, direction, filters, members)


class _Memo:
    """Chains and sets as they were made last: two hundred ports cost more to make than to compare."""

    def __init__(self) -> None:
        self._ports: dict[str, tuple[Vif, list[nft.Chain]]] = {}
        self._groups: dict[str, tuple[list[Filter], list[nft.Chain]]] = {}
        self._members: dict[str, tuple[list[str], list[nft.Set]]] = {}

    def port(self, vif: Vif) -> list[nft.Chain]:
        known = self._ports.get(vif.port_id)
        if known is None or known[0] != vif:
            known = self._ports[vif.port_id] = (vif, firewall.port_chains(vif))
        return known[1]

    def group(self, group_id: str, filters: list[Filter]) -> list[nft.Chain]:
        known = self._groups.get(group_id)
        if known is None or known[0] != filters:
            known = self._groups[group_id] = (filters, security.group_chains(group_id, filters))
        return known[1]

    def members(self, group_id: str, addresses: list[str]) -> list[nft.Set]:
        known = self._members.get(group_id)
        if known is None or known[0] != addresses:
            known = self._members[group_id] = (addresses, security.member_sets(group_id, addresses))
        return known[1]

    def forget(self, port_id: str) -> None:
        self._ports.pop(port_id, None)


def _leads_out(vif: Vif) -> bool:
    return any(address.subnet.gateway_ip for address in vif.addresses)
