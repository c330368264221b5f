"""The reports of many hosts as few transactions.

A host says each report interval that it lives, mostly with nothing new; a thousand hosts are a hundred such
messages a second. What has come within half a second is written as one: the bus collects it, or it is
gathered here, where it comes as casts. Who dies before that has lost signs of life that come again, and a
host counts as dead only after several of them.
"""

from __future__ import annotations

import threading

from msgspec import structs

from kilonova import log
from kilonova.bus.base import quick
from kilonova.conductor import proxy, reports
from kilonova.conductor.parts import Parts
from kilonova.domain.clock import now
from kilonova.domain.errors import RolledBack, Unavailable
from kilonova.domain.hosts import HostReport, topic
from kilonova.domain.likeness import Held, digest
from kilonova.domain.messages import FromHost, Nothing, PowerStates, Report
from kilonova.store import block_devices, hosts, servers
from kilonova.store.repeat import repeat

_log = log.get("conductor")

_SECONDS = 0.5
"""How long a report may wait for others; little beside the seconds between two of a host."""

_YOUNG = 5.0
"""Seconds; longer than what is told takes to be written."""


class Reports:
    """Its thread writes what report() took in, until closed."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._waiting: dict[str, Report] = {}
        """By host: its newest."""
        self._states: dict[str, PowerStates] = {}
        """Likewise."""
        self._came = threading.Condition()
        self._writing = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reports", daemon=True)
        self._thread.start()

    @quick  # as casts; who begins calls
    def report(self, message: Report) -> Nothing:
        """An agent that has just begun goes on when it is written; all others need not know."""
        if message.starting:
            return reports.report(self._parts, message)
        with self._came:
            self._waiting[message.host] = message
            self._came.notify()
        return Nothing()

    def power_states(self, message: PowerStates) -> None:
        """What all guests of a host do, as it says with each report. It is written with the next of those."""
        with self._came:
            self._states[message.host] = message

    def close(self) -> None:
        """Returns when what came is written."""
        with self._came:
            self._closing.set()
            self._came.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._came:
                self._came.wait_for(lambda: self._waiting or self._closing.is_set())
            self._closing.wait(_SECONDS)
            if not self.write() and self._closing.is_set():
                return

    def write(self) -> bool:
        """Write now what has come; whether anything had."""
        with self._writing:  # what came first is written first
            with self._came:
                gathered, self._waiting = self._waiting, {}
                states, self._states = self._states, {}
            if gathered:
                self._write(gathered)
            if states:
                self._follow(states)
        return bool(gathered or states)

    def _write(self, gathered: dict[str, Report]) -> None:
        # In one order, so that two conductors do not wait for each other.
        told = {host: gathered[host].report for host in sorted(gathered)}
        likeness = {host: one.likeness for host, one in gathered.items() if one.likeness is not None}
        try:
            self._put(told)
            self._compare(likeness)
        except Exception:  # noqa: BLE001 - the loop must outlive a database that is away
            _log.exception("reports_lost", hosts=len(told))

    def _put(self, told: dict[str, HostReport]) -> None:
        """All as one; if one of them cannot be written, each by itself. Unavailable: the database is away."""
        try:
            repeat(self._written, told)
        except Exception as error:
            if _is_away(error):
                raise
            _log.info("reports_one_by_one", hosts=len(told), error=str(error))
        else:
            return
        for host, one in told.items():
            try:
                repeat(self._written, {host: one})
            except Exception as error:
                if _is_away(error):
                    raise
                _log.exception("report_lost", host=host)

    def _follow(self, told: dict[str, PowerStates]) -> None:
        """Only what is not as the records have it is a transaction. What has just changed may be newer than
        what was told; the next report says how it is."""
        try:
            with self._parts.db.read() as conn:
                known = servers.power_states(conn, list(told), before=now() - _YOUNG)
        except Exception:  # noqa: BLE001 - as above
            _log.exception("power_states_lost", hosts=len(told))
            return
        for host, message in told.items():
            other = {
                server_id: state
                for server_id, state in message.states.items()
                if known.get((host, server_id), state) != state
            }
            try:
                if other:
                    proxy.power_states(self._parts, structs.replace(message, states=other))
            except Exception:  # noqa: BLE001 - another host's may yet be written
                _log.exception("power_states_lost", host=host)

    def _written(self, told: dict[str, HostReport]) -> None:
        config = self._parts.config
        with self._parts.db.write() as conn:
            moved = hosts.report_all(conn, told, config.default_availability_zone, config.compute)
        for host in moved:
            self._parts.network.host_moved(host)

    def _compare(self, likeness: dict[str, str]) -> None:
        """Who is not as the records have it looks at each of its servers."""
        if not likeness:
            return
        held: dict[str, list[Held]] = {host: [] for host in likeness}
        with self._parts.db.read() as conn:
            volumes = block_devices.on_hosts(conn, list(likeness))
            for row in servers.on_hosts(conn, list(likeness)):
                held[row.host].append(Held(row.id, row.power_state, row.vifs, volumes.get(row.id, ())))
        for host, told in likeness.items():
            if digest(held[host]) != told:
                _log.info("host_differs_from_records", host=host)
                self._parts.bus.cast(topic(host), "compare", FromHost(host=host))


def _is_away(error: Exception) -> bool:
    """Whether the database is, and the same again would only take as long again."""
    return isinstance(error, Unavailable) and not isinstance(error, RolledBack)
