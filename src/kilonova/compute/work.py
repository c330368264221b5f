"""One piece of work on a server of this host, from its message to its end: done, or undone, and told."""

from __future__ import annotations

import threading
from collections.abc import Callable

from kilonova import log
from kilonova.compute import snapshot
from kilonova.compute.build import FailedAfterCommit
from kilonova.compute.insist import ConductorAway
from kilonova.compute.journal import LOOK, Journal, words
from kilonova.compute.parts import Parts
from kilonova.compute.reconcile import is_placed_here
from kilonova.compute.renewals import Renewals
from kilonova.compute.running import Running, Task
from kilonova.domain.actions import SWAP_VOLUME, VOLUME_COMES
from kilonova.domain.errors import BuildAborted, KilonovaError, StaleEpoch, Unavailable
from kilonova.domain.messages import Finished, Nothing, Work
from kilonova.domain.servers import PowerState
from kilonova.engine.ticker import Ticker

_log = log.get("compute")

_TAKES = snapshot.KINDS | {"shelve", SWAP_VOLUME}
"""Work that keeps a copy of a disk until it ends."""

Perform = Callable[[Task, Journal], PowerState]
Ended = Callable[[str, PowerState | None], None]
"""Work on that server has ended; the power state that the conductor was told, None if it was told none."""


class Worker:
    """``stopping``: set when the agent stops."""

    def __init__(
        self, parts: Parts, running: Running, renewals: Renewals, stopping: threading.Event, ended: Ended
    ) -> None:
        self._parts = parts
        self._running = running
        self._renewals = renewals
        self._stopping = stopping
        self._ended = ended
        self._looks: Ticker | None = None
        self.untidy = threading.Event()
        """The host is not as the records have it, for want of a hypervisor that answers."""

    def start(self, looks: Ticker) -> None:
        """Until then nobody looks whether a step takes long."""
        self._looks = looks

    def do(self, work: Work, perform: Perform) -> None:
        """Run one piece of work to its end and tell the conductor how it went."""
        with log.bound(request_id=work.request_id, operation=work.operation_id, server=work.server_id):
            if self._stopping.is_set():
                return
            if self._running.busy(work.server_id) and not self._renewals.is_ours(work):
                _log.info("work_came_late", kind=work.kind, epoch=work.epoch)
                return
            with self._running.begin(work) as task:
                if task is None:
                    _log.info("work_came_twice", kind=work.kind, epoch=work.epoch)
                    return
                told = self._do_in_turn(task, perform)
            self._ended(work.server_id, told)

    def _do_in_turn(self, task: Task, perform: Perform) -> PowerState | None:
        """The power state that the conductor was told at the end; None if it was told none."""
        journal = Journal(self._parts, task.work, task.cancel)
        self._look_later(journal)
        self._renewals.later(task.work.lease)
        try:
            return self._run(task, journal, perform)
        except StaleEpoch:
            self._let_go(task, journal)
        except (ConductorAway, KilonovaError) as error:
            # Its end could not be told: the operation is open, and its next owner finds what is done.
            _log.warning("work_left", kind=task.work.kind, error=str(error))
        finally:
            journal.close()
        return None

    def _look_later(self, journal: Journal) -> None:
        def look() -> None:
            if journal.look():
                self._look_later(journal)

        if self._looks is not None:
            self._looks.after(LOOK, look)

    def _run(self, task: Task, journal: Journal, perform: Perform) -> PowerState | None:
        """Do the work and tell its end. What fails in the doing is undone; never what was done."""
        try:
            told = perform(task, journal)
        except (StaleEpoch, ConductorAway):
            raise
        except Exception as error:  # noqa: BLE001 - the edge of the work: its fault must be told
            if self._stopping.is_set():
                # It lost the driver or the network under it: no fault of the server's.
                _log.info("work_left_for_the_next_start", kind=task.work.kind, error=words(error))
            elif isinstance(error, FailedAfterCommit) and isinstance(error.cause, Unavailable):
                # The guest waits, whole, and the records have it ACTIVE: it is let run when that can be done.
                _log.warning("guest_waits_for_its_start", error=words(error.cause))
                self.untidy.set()
            elif task.work.kind in VOLUME_COMES and isinstance(error, Unavailable):
                _log.warning("volume_perhaps_there", kind=task.work.kind, error=words(error))
            else:
                self._failed(task.work, journal, error)
            return None
        self._finish(task.work, journal, power_state=told)
        _log.info("work_done", kind=task.work.kind, host=self._parts.host)
        return told

    def _failed(self, work: Work, journal: Journal, error: Exception) -> None:
        """Undo, and say which step failed and why; another host may try what may go better there."""
        cause = error.cause if isinstance(error, FailedAfterCommit) else error
        if isinstance(cause, KilonovaError):
            _log.warning("work_failed", kind=work.kind, error=journal.failure(cause))
        else:
            _log.exception("work_failed", kind=work.kind)
        undone = isinstance(error, FailedAfterCommit) or self._undo(journal)
        if not undone and work.kind in VOLUME_COMES:
            return  # it stays open: it is tried again when the lease runs out
        self._finish(work, journal, error=cause)

    def _finish(
        self,
        work: Work,
        journal: Journal,
        *,
        error: Exception | None = None,
        power_state: PowerState = PowerState.NOSTATE,
    ) -> None:
        message = Finished(
            host=self._parts.host,
            operation_id=work.operation_id,
            epoch=work.epoch,
            kind=work.kind,
            steps=journal.untold(),
            error=None if error is None else journal.failure(error),
            details=journal.trace,
            retry=error is not None and not isinstance(error, BuildAborted),
            power_state=power_state,
        )
        journal.ask("finished", message, Nothing)

    def _let_go(self, task: Task, journal: Journal) -> None:
        """The work moved on. What it made is removed, unless this host has newer work for the same server
        (which finds and uses it, or deletes it) or still has the server by the records."""
        work = task.work
        _log.info("work_moved_on", kind=work.kind, epoch=work.epoch)
        if work.kind in _TAKES and not self._running.superseded(task):
            self._undo(journal)
        if work.kind not in ("build", "unshelve") or self._running.superseded(task):
            return
        try:
            if is_placed_here(self._parts, work.server_id):
                self.untidy.set()  # it may be about to leave: who has the work now says so a moment later
            else:
                self._undo(journal)
        except Unavailable as error:
            # The next comparison with the records will see.
            _log.warning("work_left", kind=work.kind, error=error.message)

    def _undo(self, journal: Journal) -> bool:
        """Whether all of it worked."""
        clean = journal.undo()
        if not clean:
            self.untidy.set()
        return clean
