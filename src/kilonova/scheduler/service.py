"""The scheduler as a service: ``select_destinations`` decides and claims."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass

from kilonova import log, metrics
from kilonova.bus.base import Handler
from kilonova.config import Config
from kilonova.domain.clock import now
from kilonova.domain.errors import NoValidHost, StaleEpoch
from kilonova.domain.messages import SelectDestinations, SelectForMany, Selection, Selections
from kilonova.engine.faults import NO_FAULTS, FaultPoints
from kilonova.scheduler import filters, weighers
from kilonova.scheduler.decide import decide
from kilonova.scheduler.filters.compute import COMPUTE
from kilonova.scheduler.hosts import Hosts, HostState
from kilonova.scheduler.rules import Filter, Weigher, chosen, need_of
from kilonova.store import claims, operation_sets, operations
from kilonova.store.claims import Want
from kilonova.store.database import Database, Row
from kilonova.store.repeat import repeated

_log = log.get("scheduler")
_decisions = metrics.Histogram("scheduler_decision_seconds", "From the request to the claim.", ("outcome",))

_TRIES = 3
"""Decisions anew when every host of the first one was taken by others meanwhile."""


@dataclass(frozen=True)
class Choice:
    """What is about to be claimed for one of several servers."""

    request: SelectDestinations
    host: HostState
    selection: Selection

    @property
    def want(self) -> Want:
        return Want(self.request.spec.server_id, self.host.host, need_of(self.request.spec))


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
        return {
            "select_destinations": self.select_destinations,
            "select_for_many": self.select_for_many,
        }

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

    def select_for_many(self, request: SelectForMany) -> Selections:
        """The same for several servers, whose claims are one transaction.

        Where it does not go as usual (no host, the best one just taken, an earlier claim) nothing is claimed:
        that server is asked for alone.
        """
        began = time.perf_counter()
        with self._lock:
            hosts = self._hosts.current(now())
            choices = [
                choice for asked in request.asked if (choice := self._choice(asked, hosts)) is not None
            ]
            claimed = self._claim_choices(choices)
        for choice in claimed.values():
            _log.info("host_selected", server=choice.request.spec.server_id, host=choice.host.host)
            _decisions.observe((time.perf_counter() - began) / len(request.asked), "selected")
        found = [claimed.get(asked.operation_id) for asked in request.asked]
        return Selections(selected=[choice.selection if choice else None for choice in found])

    def _choice(self, request: SelectDestinations, hosts: list[HostState]) -> Choice | None:
        """The best host, as if it were claimed already: the next choice counts with that."""
        try:
            candidates = self._among(hosts, request)
        except NoValidHost:
            return None
        self._hosts.expect(candidates[0], need_of(request.spec))
        return Choice(request, candidates[0], self._selection(candidates, 0))

    def _claim_choices(self, choices: list[Choice]) -> dict[str, Choice]:
        """Those that are claimed, by operation id."""
        claimed: dict[str, Choice] = {}
        left: Collection[Row] = ()
        try:
            for _ in choices:
                self._faults.reach("build.claim.before")
            if choices:
                claimed, left = self._claimed(choices)
        finally:  # before memory holds what the claims left free, which counts none of the others
            for choice in choices:
                if choice.request.operation_id not in claimed:
                    self._hosts.expect(choice.host, need_of(choice.request.spec), -1)
        for row in left:
            self._hosts.claimed(row, expected=True)
        for _ in claimed:
            self._faults.reach("build.claim.after")
        return claimed

    @repeated
    def _claimed(self, choices: list[Choice]) -> tuple[dict[str, Choice], Collection[Row]]:
        """One transaction: of those operations that are still the asker's, and whose servers hold nothing.

        Those that are claimed, by operation id, and the rows of their hosts.
        """
        with self._db.write() as conn:
            epochs = {choice.request.operation_id: choice.request.epoch for choice in choices}
            seeking = operation_sets.lock_seeking(conn, epochs)
            held = claims.holding(conn, [choice.request.spec.server_id for choice in choices])
            usual = [
                choice
                for choice in choices
                if choice.request.operation_id in seeking and choice.request.spec.server_id not in held
            ]
            taken = claims.claim_all(conn, [choice.want for choice in usual], self._only_enabled)
        claimed = {choice.request.operation_id: choice for choice in usual if choice.host.host in taken}
        return claimed, taken.values()

    def _selected(self, request: SelectDestinations) -> Selection:
        with self._lock:
            for _ in range(_TRIES):
                candidates = self._decide(request)
                for index, candidate in enumerate(candidates):
                    if self._claim(request, candidate):
                        return self._selection(candidates, index)
                self._hosts.look_again()
        raise NoValidHost("No valid host was found. Every host that fits was taken meanwhile.")

    def _selection(self, candidates: list[HostState], index: int) -> Selection:
        rest = candidates[index + 1 : index + 1 + self._config.scheduler.max_alternates]
        return Selection(
            host=candidates[index].host,
            alternates=[other.host for other in rest],
            availability_zone=candidates[index].availability_zone,
        )

    def _decide(self, request: SelectDestinations) -> list[HostState]:
        try:
            return self._decided(request)
        except NoValidHost:
            old = self._hosts.look_again()
            if not (self._hosts.listen_again(now()) or old):
                raise
            return self._decided(request)

    def _decided(self, request: SelectDestinations) -> list[HostState]:
        return self._among(self._hosts.current(now()), request)

    def _among(self, hosts: list[HostState], request: SelectDestinations) -> list[HostState]:
        return decide(request, hosts, self._filters, self._weighers, self._config.scheduler.weights)

    @repeated
    def _claim(self, request: SelectDestinations, candidate: HostState) -> bool:
        """One transaction: the operation is still the asker's, an earlier claim is gone, this one fits."""
        server_id = request.spec.server_id
        self._faults.reach("build.claim.before")
        with self._db.write() as conn:
            if not operations.seeks_host(conn, request.operation_id, request.epoch):
                raise StaleEpoch(f"operation {request.operation_id} moved on, or has its host")
            claims.release(conn, server_id)
            need = need_of(request.spec)
            row = claims.claim(conn, server_id, candidate.host, need, self._only_enabled)
        if row is not None:
            self._faults.reach("build.claim.after")
            self._hosts.claimed(row)
        return row is not None
