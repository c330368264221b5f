"""Renews the leases of all that this host works on, by one question, as often as conductors want it."""

from __future__ import annotations

import threading

from kilonova.compute.parts import Parts
from kilonova.compute.running import Running
from kilonova.domain.errors import Unavailable
from kilonova.domain.messages import Held, RenewLeases, Work
from kilonova.engine.ticker import Ticker


class Renewals:
    def __init__(self, parts: Parts, running: Running) -> None:
        self._parts = parts
        self._running = running
        self._ticker: Ticker | None = None
        self._due = threading.Lock()

    def start(self, ticker: Ticker) -> None:
        """Until then nothing is renewed."""
        self._ticker = ticker

    def later(self, lease: float) -> None:
        """One renewal is due at a time, none without work. How long a lease is, conductors say."""
        if self._ticker is not None and self._due.acquire(blocking=False):
            self._ticker.after(lease / 3, lambda: self._renew(lease))

    def is_ours(self, work: Work) -> bool:
        """Whether a conductor says that this host has the operation, in this epoch."""
        held = {work.operation_id: work.epoch}
        try:
            answer = self._parts.ask("renew_leases", RenewLeases(host=self._parts.host, held=held), Held)
        except Unavailable:
            return False  # then it comes again
        return work.operation_id in answer.operation_ids

    def _renew(self, lease: float) -> None:
        self._due.release()
        try:
            lease = self._renew_all() or lease
        finally:
            if self._running.held():
                self.later(lease)

    def _renew_all(self) -> float | None:
        """Seconds until the leases run out; None if there are none."""
        held = self._running.held()
        if held:
            answer = self._parts.ask("renew_leases", RenewLeases(host=self._parts.host, held=held), Held)
            self._running.cancel_all_but(held, set(answer.operation_ids))
            return answer.lease
        return None
