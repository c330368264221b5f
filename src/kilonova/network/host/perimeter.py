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
from kilonova.network.host import audit, firewall, names, nft
from kilonova.network.host.forwarding import Forwarding

_OWNER = "networks"


class Perimeter:
    def __init__(self, config: Network, folder: Path, vifs: dict[str, Vif], forwarding: Forwarding) -> None:
        self._config = config
        self._forwarding = forwarding
        self._table = f"kilonova-{crc32(str(folder.resolve()).encode()):08x}"
        self._vifs = dict(vifs)
        self._lock = threading.Lock()

    def admit(self, vif: Vif) -> None:
        """The port's rules are loaded, and its network's."""
        with self._lock:
            self._vifs[vif.port_id] = vif
            self._ensure_forwarding()
            gate, host = self._tables({vif.port_id: vif})
            try:
                nft.apply(
                    firewall.guard(self._table, vif)
                    + firewall.joined(_only("ports", gate))
                    + firewall.joined(host)
                )
            except BuildFailed:
                # The first port of all, or somebody flushed the tables.
                self._replace_all()

    def dismiss(self, vif: Vif) -> None:
        """None of the port's rules is left; with a network's last port, none of the network's; with the
        last network, no table, and the host forwards as it did before."""
        with self._lock:
            self._vifs.pop(vif.port_id, None)
            if not self._vifs:
                nft.apply(
                    [c for table in self._tables({}) for c in nft.delete_table(table.family, table.name)]
                )
                self._forwarding.release(_OWNER)
                return
            commands = firewall.unguard(self._table, vif.port_id)
            if not any(other.network_id == vif.network_id for other in self._vifs.values()):
                gate, host = self._tables({vif.port_id: vif})
                commands += firewall.parted(_only("ports", gate)) + firewall.parted(host)
            try:
                nft.apply(commands)
            except BuildFailed:
                self._replace_all()

    def start(self) -> None:
        """Nothing is left of an earlier run if there is no port any more."""
        with self._lock:
            if not self._vifs:
                self._remove()

    def ensure(self, *, rules: bool) -> list[str]:
        """All is as it should be, the rules too if asked; a line for each thing that was not."""
        with self._lock:
            done = self._ensure_forwarding()
            if not self._vifs or not rules:
                return done
            problems = [line for table in self._tables(self._vifs) for line in audit.problems(table)]
            if problems:
                self._replace_all()
            return done + problems

    def _remove(self) -> None:
        nft.apply([c for table in self._tables({}) for c in nft.delete_table(table.family, table.name)])
        self._forwarding.release(_OWNER)

    def _ensure_forwarding(self) -> list[str]:
        if not self._config.nat or not any(_leads_out(vif) for vif in self._vifs.values()):
            return []
        return self._forwarding.hold(_OWNER)

    def _replace_all(self) -> None:
        nft.apply([command for table in self._tables(self._vifs) for command in nft.replace(table)])

    def _tables(self, vifs: dict[str, Vif]) -> tuple[nft.Table, nft.Table]:
        networks = sorted({vif.network_id for vif in vifs.values()})
        return (
            firewall.bridge_table(self._table, list(vifs.values()), [names.gate(n) for n in networks]),
            firewall.host_table(
                self._table,
                [names.transit(n) for n in networks],
                [names.bridge(n) for n in networks],
                self._config.transit_cidr,
                self._config.nat,
            ),
        )


def _leads_out(vif: Vif) -> bool:
    return any(address.subnet.gateway_ip for address in vif.addresses)


def _only(name: str, table: nft.Table) -> nft.Table:
    return nft.Table(table.family, table.name, [s for s in table.sets if s.name == name], [])
