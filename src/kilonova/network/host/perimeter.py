"""What all networks of a host share: its firewall tables and net.ipv4.ip_forward.

Holds in memory what should be loaded, under one lock, so that a repair never mistakes a change under way for
damage. Every change is one transaction: the difference between what is loaded and what should be.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar
from zlib import crc32

from kilonova.config import Network
from kilonova.domain.network import Vif
from kilonova.network.host import audit, nft, tracked
from kilonova.network.host.endings import Rights, View
from kilonova.network.host.forwarding import Forwarding
from kilonova.network.host.knowledge import Knowledge
from kilonova.network.host.leaving import Leaving
from kilonova.network.host.plug import Plug
from kilonova.network.host.wanted import Tables, Wanted

_OWNER = "networks"
_FAMILIES = ("bridge", "inet", "arp")
_AT_ONCE = 256
"""So many connections are closed before others may have the lock."""

T = TypeVar("T")


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
        self._forwarding = forwarding
        self._table = table_name(folder)
        self._vifs = dict(vifs)
        self._knowledge = knowledge
        self._lock = threading.Lock()
        self._loaded: Tables | None = None
        """What this process has loaded, or seen loaded."""
        self._cutting = threading.Lock()
        """Taken before ``_lock``, by who reads what the kernel tracks: that may take a second."""
        self._leaving = Leaving()
        self._held: dict[str, Rights] = {}
        """By what the connections of each port have been looked through; so none is here after a kill -9."""
        self._wanted = Wanted(config, self._table, zone_of, plug)
        self._begun = False
        """Nothing is left of what an earlier run needed and this one does not."""

    def admit(self, vif: Vif) -> None:
        """The port's rules are loaded, and its network's."""
        with self._lock:
            new = vif.port_id not in self._vifs
            self._vifs[vif.port_id] = vif
            self._ensure_forwarding()
            self._load()
            if new:  # it has no connections
                self._held |= self._view([vif]).ports

    def holds(self, port_id: str) -> bool:
        """Whether its rules are loaded."""
        with self._lock:
            return self._loaded is not None and port_id in self._vifs

    def dismiss(self, vif: Vif) -> None:
        """None of the port's rules is left; with a network's last port, none of the network's; with the
        last network, no table, and the host forwards as it did before."""
        with self._lock:
            self._vifs.pop(vif.port_id, None)
            self._held.pop(vif.port_id, None)
            if self._vifs:
                self._load()
            else:
                self._remove()

    def refresh(self) -> None:
        """The rules are as is known by now, and nothing passes by a connection that they do not allow. What
        the plug guards, it is told by joining the ports again (host.py)."""
        with self._lock:
            if not self._vifs:
                return
            self._load()
        self._cut()

    def end_connections(self, vif: Vif, addresses: set[str]) -> None:
        """Whoever has these addresses next inherits nothing of this port's."""
        with self._lock:
            vifs = [vif, *(one for one in self._vifs.values() if one.network_id == vif.network_id)]
            zones = set(self._wanted.zones(vifs).values())
        self._leaving.end(zones, addresses)

    def _begin(self) -> None:
        """Nothing is left of an earlier run if there is no port any more, nor what another plug needed."""
        if self._begun:
            return
        if self._vifs:
            unused = [] if self._wanted.guards else ["bridge"]
            unused += ["arp"] if self._wanted.switched(()) is None else []
            nft.apply([c for family in unused for c in nft.delete_table(family, self._table)])
        else:
            self._remove()
        self._begun = True

    def ensure(self, *, rules: bool) -> list[str]:
        """All is as it should be, the rules too if asked; a line for each thing that was not."""
        with self._lock:
            self._begin()
            done = self._ensure_forwarding()
            if not self._vifs or not rules:
                return done
            problems = self._heeding(self._audit)
            if problems:
                self._held.clear()
        self._cut()
        return done + problems

    def _audit(self) -> list[str]:
        """What others have changed is as it should be; a line for each table of which that was so."""
        tables = self._loaded or self._tables()
        problems = [line for table in tables for line in audit.problems(table)]
        if problems:
            self._replace_all(self._tables())
        else:
            self._loaded = tables
            self._load_all()  # what was learned since
        return problems

    def _remove(self) -> None:
        self._loaded = None
        nft.apply([c for family in _FAMILIES for c in nft.delete_table(family, self._table)])
        self._forwarding.release(_OWNER)

    def _ensure_forwarding(self) -> list[str]:
        if not self._config.nat or not any(leads_out(vif) for vif in self._vifs.values()):
            return []
        return self._forwarding.hold(_OWNER)

    def _load(self) -> None:
        """What should be loaded is."""
        self._heeding(self._load_all)

    def _load_all(self) -> None:
        wanted, loaded = self._tables(), self._loaded
        if loaded is None:
            # The first port of all, or of this process: whatever is there is replaced.
            self._replace_all(wanted)
            return
        pairs = zip(loaded, wanted, strict=True)
        commands = [command for before, after in pairs for command in nft.difference(before, after)]
        if not commands:
            return
        self._loaded = None  # nobody knows what is, if nft does not end
        try:
            nft.apply(commands)
        except nft.Refused:
            # Somebody flushed the tables.
            self._replace_all(wanted)
        self._loaded = wanted

    def _replace_all(self, wanted: Tables) -> None:
        self._loaded = None
        nft.apply([command for table in wanted for command in nft.replace(table)])
        self._loaded = wanted

    def _tables(self) -> Tables:
        return self._wanted.tables(self._vifs.values(), self._knowledge.now)

    def _heeding(self, load: Callable[[], T]) -> T:
        """``load()``; if nft refuses what should be loaded, again, with what is at fault left closed."""
        try:
            return load()
        except (nft.Refused, ValueError):
            if not self._wanted.close_faults(self._vifs.values(), self._knowledge.now):
                raise
        return load()

    def _cut(self) -> None:
        """Close the connections that the rules of either end do not allow any more, and reopen those that
        they do again, of the ports of which something has changed, in the zones of both ends: where each port
        has its own, the other end's would go on to take what comes for an answer."""
        with self._cutting:
            with self._lock:
                view = self._view(self._vifs.values())
                changed = view.changed(self._held)
            zones = view.zones_of({one.vif.network_id for one in changed})
            addresses = {address for one in changed for address in one.addresses}
            found = tracked.connections(zones, addresses)
            wrong = [one for one in found if view.allows(one) == one.is_closed]
            for first in range(0, len(wrong), _AT_ONCE):
                some = wrong[first : first + _AT_ONCE]
                with self._lock:  # what was learned meanwhile may allow it, or not
                    now = self._view(self._vifs.values())
                    tracked.close([one for one in some if not one.is_closed and not now.allows(one)])
                    tracked.reopen([one for one in some if one.is_closed and now.allows(one)])
            with self._lock:
                self._held |= {one.vif.port_id: one for one in changed if one.vif.port_id in self._vifs}

    def _view(self, vifs: Iterable[Vif]) -> View:
        return self._wanted.view(vifs, self._knowledge.now)


def table_name(folder: Path) -> str:
    """Of the tables of the host whose folder that is."""
    return f"kilonova-{crc32(str(folder.resolve()).encode()):08x}"


def leads_out(vif: Vif) -> bool:
    """Whether the host forwards for it."""
    return any(one.subnet.gateway_ip and one.subnet.ip_version == 4 for one in vif.addresses)
