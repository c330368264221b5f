"""The hosts as the scheduler sees them: in memory, kept current by what changed in the database.

A decision first reads the rows that changed since the last look (an indexed query), so any number of
schedulers see each other's claims. What is seen counts for a moment: under load every host changes all the
time, and a claim that does not fit is refused anyway. Liveness is read anew every few seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from kilonova.domain.clock import now
from kilonova.domain.hosts import Capacity
from kilonova.store import hosts as store
from kilonova.store import operations
from kilonova.store.database import Database, Row

_FULL_REFRESH = 5.0
"""Seconds between two reads of every host; service_down_time is a minute by default."""

_HEARD = 0.5
"""Seconds for which it counts that a host was silent, where no other takes the server."""

_FRESH = 0.1
"""Seconds for which a look counts where others write side by side (PostgreSQL)."""

_OVERLAP = 1.0
"""Seconds read again each time where writers run side by side (PostgreSQL): one may commit after another
that stamped its row later. SQLite's writers queue before they stamp."""


@dataclass(slots=True, eq=False)
class HostState:
    """One host: what is free (may be negative after a ratio was lowered) and what it is."""

    host: str
    availability_zone: str
    up: bool
    """Its agent gave a sign of life within service_down_time, and nobody forced it down."""
    enabled: bool
    free_vcpus: int
    free_memory_mb: int
    free_disk_gb: int
    limit: Capacity
    hypervisor_type: str
    virt_type: str
    architectures: frozenset[str]
    servers: int
    failed_builds: int
    generation: int
    aggregate_metadata: Mapping[str, list[str]] = field(default_factory=dict)
    """Key → what the aggregates that it is in say."""
    io_ops: int = 0
    """Operations under way there, counted at the last full read, and what was claimed since."""


class Hosts:
    """All hosts by name. Not thread-safe: the scheduler's lock guards it."""

    def __init__(self, db: Database, service_down_time: float) -> None:
        self._db = db
        self._down_time = service_down_time
        self._by_name: dict[str, HostState] = {}
        alone = db.engine.dialect.name == "sqlite"
        self._overlap, self._fresh = (0.0, 0.0) if alone else (_OVERLAP, _FRESH)
        self._looked_at = -math.inf
        self._by_memory = False
        """The last decision was made without a look."""
        self._changes_until = 0.0
        self._full_at = 0.0

    def current(self, started: float) -> list[HostState]:
        """Every host, as of ``started`` (epoch seconds)."""
        self._by_memory = False
        if not 0 <= started - self._full_at <= _FULL_REFRESH:  # the clock may have been set back
            self._full_at = started
            self._read_all()
        elif 0 <= started - self._looked_at < self._fresh:
            self._by_memory = True
        else:
            with self._db.read() as conn:
                for row in store.with_services(conn, self._changes_until - self._overlap):
                    self.put(row)
            self._looked_at = started
        return list(self._by_name.values())

    def look_again(self) -> bool:
        """What was seen has proved old: the next decision looks. False if the last one did."""
        self._looked_at = -math.inf
        return self._by_memory

    def listen_again(self, started: float) -> bool:
        """Before one says that there is no host: those that were silent may have been heard since, which is
        no change of their rows. The next decision reads all of them; False if there is nothing to learn."""
        if started - self._full_at < _HEARD or all(state.up for state in self._by_name.values()):
            return False
        self._full_at = -math.inf
        return True

    def _read_all(self) -> None:
        with self._db.read() as conn:
            rows = store.with_services(conn)
            busy = operations.open_by_host(conn)
        self._by_name = {row.host: self._state(row) for row in rows}
        self._changes_until = max((row.updated_at for row in rows), default=0.0)
        for name, count in busy.items():
            if name in self._by_name:
                self._by_name[name].io_ops = count

    def put(self, row: Row) -> None:
        """Remember a row, unless memory holds a later generation of it."""
        self._changes_until = max(self._changes_until, row.updated_at)
        known = self._by_name.get(row.host)
        if known is None:
            self._by_name[row.host] = self._state(row)
        elif known.generation <= row.generation:
            fresh = self._state(row)
            fresh.io_ops = known.io_ops
            self._by_name[row.host] = fresh

    def claimed(self, row: Row, expected: bool = False) -> None:
        """What a claim of ours left free: the row that it returned. ``expected``: its build is counted."""
        known = self._by_name.get(row.host)
        if known is not None and known.generation < row.generation:
            known.io_ops += 0 if expected else 1
            _set_free(known, row)

    def expect(self, host: HostState, need: Capacity, servers: int = 1) -> None:
        """Count with a claim that is about to be made; with -1, no more: it was not made."""
        host.free_vcpus -= need.vcpus * servers
        host.free_memory_mb -= need.memory_mb * servers
        host.free_disk_gb -= need.disk_gb * servers
        host.servers += servers
        host.io_ops += servers

    def _state(self, row: Row) -> HostState:
        state = HostState(
            host=row.host,
            availability_zone=row.availability_zone,
            up=not row.forced_down and row.last_seen > now() - self._down_time,
            enabled=not row.disabled,
            free_vcpus=0,
            free_memory_mb=0,
            free_disk_gb=0,
            limit=Capacity(vcpus=row.vcpus_limit, memory_mb=row.memory_mb_limit, disk_gb=row.disk_gb_limit),
            hypervisor_type=row.hypervisor_type,
            virt_type=row.virt_type,
            architectures=frozenset(row.architectures),
            servers=0,
            failed_builds=0,
            generation=0,
            aggregate_metadata=row.aggregate_metadata or {},
        )
        _set_free(state, row)
        return state


def _set_free(state: HostState, row: Row) -> None:
    state.free_vcpus = row.vcpus_limit - row.vcpus_used
    state.free_memory_mb = row.memory_mb_limit - row.memory_mb_used
    state.free_disk_gb = row.disk_gb_limit - row.disk_gb_used
    state.servers = row.servers
    state.failed_builds = row.failed_builds
    state.generation = row.generation
