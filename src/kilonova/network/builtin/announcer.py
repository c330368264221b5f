"""Tells hosts to look again at what changed: at once, and then no more than every so often while it goes on.

It says only what changed, never how: the host asks for what holds now (``network_state``, ``host_routers``,
``server_record`` of the conductor), so that a message lost, doubled or late does no harm. Each API and each
conductor has one: whoever writes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from kilonova import log
from kilonova.bus.base import Bus
from kilonova.domain.hosts import topic
from kilonova.domain.messages import NetworkChanged, ServerRef
from kilonova.network.builtin.changes import Change
from kilonova.store import port_security, segments
from kilonova.store.database import Database

PAUSE = 0.3
"""Seconds between two rounds while changes go on."""
_RETRY = 1.0
"""Seconds until it is tried again to say what could not be said."""

_log = log.get("network.announcer")


def _nowhere(_point: str) -> None:
    pass


class Announcer:
    """Its thread begins with the first change. ``reach``: told the name of each fault point."""

    def __init__(self, db: Database, bus: Bus, reach: Callable[[str], None] = _nowhere) -> None:
        self._db = db
        self._bus = bus
        self._reach = reach
        self._lock = threading.Lock()
        self._groups: set[str] = set()
        self._members: set[str] = set()
        self._ports: set[str] = set()
        self._hosts: set[str] = set()
        self._networks: set[str] = set()
        self._servers: set[tuple[str, str]] = set()
        self._work = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def tell(self, change: Change) -> None:
        """Does not wait."""
        with self._lock:
            self._groups.update(change.groups)
            self._members.update(change.members)
            self._ports.update(change.ports)
            self._hosts.update(change.hosts)
            self._networks.update(change.networks)
            self._servers.update(change.servers)
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._run, name="network-announcer", daemon=True)
                self._thread.start()
        self._work.set()

    def close(self) -> None:
        """What was told is said before it returns."""
        with self._lock:
            self._closing.set()
            thread = self._thread
        self._work.set()
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            self._work.wait()
            self._work.clear()
            told = self._take()
            try:
                self._say(told)
            except Exception:  # noqa: BLE001 - the loop must outlive a database that is away
                _log.exception("announcing_failed")
                if self._closing.is_set():
                    return  # hosts ask by themselves too
                self.tell(told)
                self._closing.wait(_RETRY)
            if self._closing.wait(PAUSE) and not self._work.is_set():
                return

    def _take(self) -> Change:
        """All that was told and not said yet."""
        with self._lock:
            told = Change(
                self._groups, self._members, self._ports, self._hosts, self._networks, self._servers
            )
            self._groups, self._members, self._ports, self._hosts = set(), set(), set(), set()
            self._networks, self._servers = set(), set()
        return told

    def _say(self, told: Change) -> None:
        for host, server_id in sorted(told.servers):
            self._reach("refresh_interfaces.announce.before")
            self._bus.cast(topic(host), "refresh_interfaces", ServerRef(server_id=server_id))
        if not (told.groups or told.members or told.ports or told.hosts or told.networks):
            return
        with self._db.read() as conn:
            if not port_security.any_follower(conn):
                return
            found = port_security.concerned(conn, set(told.groups), set(told.members), set(told.ports))
            places = segments.places(conn, told.networks)
        nothing: tuple[set[str], set[str]] = (set(), set())
        for host in {*found, *told.hosts, *(host for hosts in places.values() for host in hosts)}:
            of_groups, of_ports = found.get(host, nothing)
            message = NetworkChanged(
                groups=sorted(of_groups),
                ports=sorted(of_ports),
                routers=host in told.hosts,
                networks=sorted(network_id for network_id, hosts in places.items() if host in hosts),
            )
            self._reach("network_changed.announce.before")
            self._bus.cast(topic(host), "network_changed", message)
