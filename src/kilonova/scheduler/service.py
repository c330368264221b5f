"""The scheduler as a service: ``select_destinations`` decides and claims."""

from __future__ import annotations

import threading
import time

from kilonova import log, metrics
from kilonova.bus.base import Handler
from kilonova.config import Config
from kilonova.domain.clock import now
from kilonova.domain.errors import NoValidHost, StaleEpoch
from kilonova.domain.messages import SelectDestinations, Selection
from kilonova.engine.faults import NO_FAULTS, FaultPoints
from kilonova.scheduler import filters, weighers
from kilonova.scheduler.decide import decide
from kilonova.scheduler.filters.compute import COMPUTE
from kilonova.scheduler.hosts import Hosts, HostState
from kilonova.scheduler.rules import Filter, Weigher, chosen, need_of
from kilonova.store import claims, operations
from kilonova.store.database import Database
from kilonova.store.repeat import repeated

_log = log.get("scheduler")
_decisions = metrics.Histogram("scheduler_decision_seconds", "From the request to the claim.", ("outcome",))

_TRIES = 3
"""Decisions anew when every host of the first one was taken by others meanwhile."""


class Scheduler:
    """Serves the topic ``scheduler``. One decision at a time: the next one sees what this one claimed."""

    def __init__(self, db: Database, config: Config, faults: FaultPoints = NO_FAULTS) -> None:
        self._db = db
        self._config = config
        self._faults = faults
        self._hosts = Hosts(db, config.compute.service_down_time)
        enabled = config.scheduler.enabled_filters or [rule.name for rule in filters.BUILT_IN]
        wanted = dict.fromkeys([*enabled, *config.scheduler.extra_filters])
        self._filters = chosen(Filter, filters.GROUP, filters.BUILT_IN, list(wanted))
        self._only_enabled = any(rule is COMPUTE for rule in self._filters)
        built_in = [weigher.name for weigher in weighers.BUILT_IN]
        named = dict.fromkeys([*built_in, *config.scheduler.weights])
        self._weighers = chosen(Weigher, weighers.GROUP, weighers.BUILT_IN, list(named))
        self._lock = threading.Lock()

    def handlers(self) -> dict[str, Handler]:
        return {"select_destinations": self.select_destinations}

    def select_destinations(self, request: SelectDestinations) -> Selection:
        """The host that now holds a claim for the server, and the next best.

        NoValidHost says why there is none. StaleEpoch: the operation that asks moved on; nothing was claimed.
        """
        began = time.perf_counter()
        outcome = "error"
        try:
            selection = self._selected(request)
            outcome = "selected"
        except (NoValidHost, StaleEpoch) as error:
            outcome = "no_valid_host" if isinstance(error, NoValidHost) else "stale"
            raise
        finally:
            _decisions.observe(time.perf_counter() - began, outcome)
        _log.info("host_selected", server=request.spec.server_id, host=selection.host)
        return selection

    def _selected(self, request: SelectDestinations) -> Selection:
        with self._lock:
            for _ in range(_TRIES):
                candidates = self._decide(request)
                for index, candidate in enumerate(candidates):
                    if self._claim(request, candidate):
                        rest = candidates[index + 1 : index + 1 + self._config.scheduler.max_alternates]
                        return Selection(
                            host=candidate.host,
                            alternates=[other.host for other in rest],
                            availability_zone=candidate.availability_zone,
                        )
                self._hosts.look_again()
        raise NoValidHost("No valid host was found. Every host that fits was taken meanwhile.")

    def _decide(self, request: SelectDestinations) -> list[HostState]:
        try:
            return self._decided(request)
        except NoValidHost:
            if not self._hosts.look_again():
                raise
            return self._decided(request)

    def _decided(self, request: SelectDestinations) -> list[HostState]:
        multipliers = self._config.scheduler.weights
        return decide(request, self._hosts.current(now()), self._filters, self._weighers, multipliers)

    @repeated
    def _claim(self, request: SelectDestinations, candidate: HostState) -> bool:
        """One transaction: the operation is still the asker's, an earlier claim is gone, this one fits."""
        server_id = request.spec.server_id
        self._faults.reach("build.claim.before")
        with self._db.write() as conn:
            if not operations.seeks_host(conn, request.operation_id, request.epoch):
                raise StaleEpoch(f"operation {request.operation_id} moved on, or has its host")
            claims.release(conn, server_id)
            need = need_of(request.spec.flavor)
            row = claims.claim(conn, server_id, candidate.host, need, self._only_enabled)
        if row is not None:
            self._faults.reach("build.claim.after")
            self._hosts.claimed(row)
        return row is not None
