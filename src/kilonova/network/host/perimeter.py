"""What all networks of a host share: its two firewall tables and net.ipv4.ip_forward.

Holds in memory what should be loaded, under one lock, so that a repair never mistakes a change under way for
damage.
"""

from __future__ import annotations

import threading
from pathlib import Path
from zlib import crc32

from kilonova.config import Network
from kilonova.domain.errors import BuildFailed
from kilonova.domain.network import Vif
from kilonova.network.host import audit, firewall, links, names, nft
from kilonova.network.host.plug import Filters, Plug


class Perimeter:
    def __init__(self, config: Network, folder: Path, vifs: dict[str, Vif], plug: Plug) -> None:
        self._config = config
        self._plug = plug
        self._ip_forward = folder / "ip_forward"
        """The host's setting before the first network came."""
        self._table = f"kilonova-{crc32(str(folder.resolve()).encode()):08x}"
        self._vifs = dict(vifs)
        self._lock = threading.Lock()

    def admit(self, vif: Vif) -> None:
        """The port's rules are loaded, and its network's."""
        with self._lock:
            self._vifs[vif.port_id] = vif
            self._ensure_forwarding()
            commands = [c for table in self._members([vif]) for c in firewall.joined(table)]
            if self._guards:
                commands = firewall.guard(self._table, vif) + commands
            try:
                nft.apply(commands)
            except BuildFailed:
                # The first port of all, or somebody flushed the tables.
                self._replace_all()

    def holds(self, port_id: str) -> bool:
        with self._lock:
            return port_id in self._vifs

    def dismiss(self, vif: Vif) -> None:
        """None of the port's rules is left; with a network's last port, none of the network's; with the
        last network, no table, and the host forwards as it did before."""
        with self._lock:
            self._vifs.pop(vif.port_id, None)
            if not self._vifs:
                self._remove()
                return
            left = self._members(list(self._vifs.values()))
            gone = [_less(one, other) for one, other in zip(self._members([vif]), left, strict=True)]
            commands = [c for table in gone for c in firewall.parted(table)]
            if self._guards:
                commands = firewall.unguard(self._table, vif.port_id) + commands
            try:
                nft.apply(commands)
            except BuildFailed:
                self._replace_all()

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
            problems = [line for table in self._tables() for line in audit.problems(table)]
            if problems:
                self._replace_all()
            return done + problems

    def _remove(self) -> None:
        nft.apply([c for family in ("bridge", "inet") for c in nft.delete_table(family, self._table)])
        links.restore_forwarding(self._ip_forward)

    def _ensure_forwarding(self) -> list[str]:
        if not self._config.nat or not any(_leads_out(vif) for vif in self._vifs.values()):
            return []
        return links.ensure_forwarding(self._ip_forward)

    def _replace_all(self) -> None:
        nft.apply([command for table in self._tables() for command in nft.replace(table)])

    @property
    def _guards(self) -> bool:
        """Whether what guests may send is said here, in the family bridge; else the plug sees to it."""
        return self._plug.filters is Filters.BRIDGE

    def _tables(self) -> list[nft.Table]:
        """All that should be loaded."""
        vifs = list(self._vifs.values())
        host = self._host_table(vifs)
        return [firewall.bridge_table(self._table, vifs, self._inner(vifs)), host] if self._guards else [host]

    def _members(self, vifs: list[Vif]) -> list[nft.Table]:
        """Tables with what these ports bring into the sets that all ports share, and with no rules."""
        ports = firewall.bridge_table(self._table, [], self._inner(vifs))
        shared = [_sets_of(self._host_table(vifs))]
        return [_only("ports", ports), *shared] if self._guards else shared

    def _host_table(self, vifs: list[Vif]) -> nft.Table:
        return firewall.host_table(
            self._table,
            [names.transit(network_id) for network_id in sorted({vif.network_id for vif in vifs})],
            sorted({bridge for vif in vifs for bridge in self._plug.bridges(vif)}),
            self._config.transit_cidr,
            self._config.nat,
        )

    def _inner(self, vifs: list[Vif]) -> list[str]:
        return sorted({device for vif in vifs for device in self._plug.inner(vif)})


def _leads_out(vif: Vif) -> bool:
    return any(address.subnet.gateway_ip for address in vif.addresses)


def _only(name: str, table: nft.Table) -> nft.Table:
    return nft.Table(table.family, table.name, [s for s in table.sets if s.name == name], [])


def _sets_of(table: nft.Table) -> nft.Table:
    return nft.Table(table.family, table.name, table.sets, [])


def _less(table: nft.Table, other: nft.Table) -> nft.Table:
    """The sets of the one, without the elements that are in those of the other."""
    sets = [
        nft.Set(one.name, {k: v for k, v in one.elements.items() if k not in two.elements}, one.verdicts)
        for one, two in zip(table.sets, other.sets, strict=True)
    ]
    return nft.Table(table.family, table.name, sets, [])
