"""The agent of one host: takes work from the bus, reports, renews its leases, watches its guests."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from msgspec import structs

from kilonova import log
from kilonova.bus.base import Handler, Subscription
from kilonova.compute import actions, build, delete, interfaces, vendor_data
from kilonova.compute.build import FailedAfterCommit
from kilonova.compute.insist import ConductorAway, insist
from kilonova.compute.journal import LOOK, Journal, words
from kilonova.compute.parts import Parts
from kilonova.compute.power import PowerWatch
from kilonova.compute.reconcile import is_placed_here, likeness, reconcile
from kilonova.compute.refresh import Refresher
from kilonova.compute.running import Running, Task
from kilonova.domain import hosts
from kilonova.domain.clock import now
from kilonova.domain.errors import BuildAborted, KilonovaError, NotFound, StaleEpoch, Unavailable
from kilonova.domain.messages import (
    ConsoleOutput,
    Finished,
    FromHost,
    Held,
    Nothing,
    Ready,
    RenewLeases,
    Report,
    ServerQuery,
    ServerRef,
    SetPassword,
    Text,
    Work,
)
from kilonova.domain.servers import GuestMetadata, PowerState
from kilonova.engine.ticker import Ticker
from kilonova.network.base import MetadataDeeds

_log = log.get("compute")

Perform = Callable[[Task, Journal], PowerState]
_LIKENESS_INTERVAL = 50.0
"""Seconds after which the next report lets a conductor see whether the host is as the records have it."""
_REFRESH_INTERVAL = 60.0
"""Seconds after which what ports may let pass is asked for though nobody said that it changed: nothing else
tells of a change whose word was lost (domain/likeness.py)."""
_RECONCILE_INTERVAL = 600.0
"""Seconds between two comparisons that nobody asked for."""
_REPAIR_INTERVAL = 5.0


class Agent:
    """``workers``, ``builders``: threads, or the name of a pool of the bus. Builds may take minutes, so they
    have their own: a server is stopped or deleted at once, however many others are being built."""

    def __init__(self, parts: Parts, workers: int | str, builders: int | str) -> None:
        self._parts = parts
        self._workers = workers
        self._builders = builders
        self._running = Running()
        self._power = PowerWatch(parts, self._running)
        self._refresher = Refresher(parts)
        self._subscriptions: list[Subscription] = []
        self._leases: Ticker | None = None
        self._looks: Ticker | None = None
        self._repairs: Ticker | None = None
        self._likeness_due = threading.Event()
        self._renewal_due = threading.Lock()
        self._reported = 0.0
        self._stopping = threading.Event()
        self._to_refresh: set[str] = set()
        """Servers whose NICs must be compared with the record when nothing else is done to them."""
        self._untidy = threading.Event()
        """The host is not as the records have it, for want of a hypervisor that answers."""

    def start(
        self,
        reports: Ticker,
        leases: Ticker,
        looks: Ticker,
        repairs: Ticker,
        stop: threading.Event | None = None,
    ) -> None:
        """Wait for the hypervisor and a conductor, compare the host with the records, then take work.

        The tickers may be shared by many agents. What shares one waits for it: renewals have their own.
        StaleEpoch: ``stop`` was set while there was no conductor.
        """
        parts = self._parts
        deeds = MetadataDeeds(
            vendor_data=lambda about: vendor_data.dynamic(parts.config.api, about),
            keep_password=self._keep_password,
        )
        parts.network.start(self._metadata, deeds)
        parts.driver.start(self._power.on_event)
        self._leases, self._looks, self._repairs = leases, looks, repairs
        stop = stop or self._stopping
        insist(parts.driver.check, math.inf, stop, "hypervisor_away")
        insist(lambda: self._report(starting=True), math.inf, stop)
        insist(self._refresher.compare, math.inf, stop)
        insist(self._compare, math.inf, stop)
        self._serve()
        insist(self._ready, math.inf, stop)
        reports.every(parts.config.compute.report_interval, self._report)
        repairs.every(_LIKENESS_INTERVAL, self._likeness_due.set)
        repairs.every(_REFRESH_INTERVAL, self._refresher.compare)
        repairs.every(_RECONCILE_INTERVAL, self._compare)
        repairs.every(_REPAIR_INTERVAL, self._repair)
        repairs.every(_REPAIR_INTERVAL, self._tidy)

    def stop(self) -> None:
        """Take no more work; what is under way stops at its next step and goes on at the next start.
        Guests go on."""
        self._stopping.set()
        self._running.cancel_all()
        self._parts.driver.stop()  # who waits for a guest wakes up
        for subscription in self._subscriptions:
            subscription.close()
        self._refresher.close()
        self._parts.network.stop()

    def _ready(self) -> None:
        held = list(self._running.held())
        self._parts.ask("ready", Ready(host=self._parts.host, held=held), Nothing)

    def _serve(self) -> None:
        short: dict[str, Handler] = {
            "perform_action": self.perform_action,
            "delete_instance": self.delete_instance,
            "change_interfaces": self.change_interfaces,
            "refresh_interfaces": self.refresh_interfaces,
            "get_console_output": self.get_console_output,
            "network_changed": self._refresher.network_changed,
            "compare": self.compare,
        }
        long: dict[str, Handler] = {"build_and_run_instance": self.build_and_run_instance}
        bus, host = self._parts.bus, self._parts.host
        self._subscriptions = [
            bus.serve(hosts.topic(host), short, self._workers),
            bus.serve(hosts.builds_topic(host), long, self._builders, calls=False),
        ]

    # --- work

    def build_and_run_instance(self, work: Work) -> None:
        self._do(
            work,
            lambda task, journal: build.build_and_run_instance(
                self._parts, work, journal, task.cancel, self._refresher.learn
            ),
        )

    def change_interfaces(self, work: Work) -> Nothing:
        """The same as perform_action, for who waits until it is done. How it went, the record says."""
        self.perform_action(work)
        self._parts.faults.reach(f"{work.kind}.answer.before")
        return Nothing()

    def refresh_interfaces(self, message: ServerRef) -> None:
        self._to_refresh.add(message.server_id)
        self._refresh(message.server_id)

    def _refresh(self, server_id: str) -> None:
        """If it was asked for, and unless work on the server is under way: who does that calls it then."""
        with self._running.reserved(server_id) as free:
            if free and server_id in self._to_refresh:
                self._to_refresh.discard(server_id)
                interfaces.refresh_interfaces(self._parts, server_id, self._refresher.learn)

    def perform_action(self, work: Work) -> None:
        if work.kind in interfaces.KINDS:
            self._do(
                work,
                lambda task, journal: interfaces.change_interfaces(
                    self._parts, work, journal, task.cancel, self._refresher.learn
                ),
            )
            return
        self._do(work, lambda task, journal: actions.perform_action(self._parts, work, journal, task.cancel))

    def delete_instance(self, work: Work) -> None:
        self._do(work, lambda _task, journal: delete.delete_instance(self._parts, work, journal))

    def _do(self, work: Work, perform: Perform) -> None:
        """Run one piece of work to its end and tell the conductor how it went."""
        with log.bound(request_id=work.request_id, operation=work.operation_id, server=work.server_id):
            if self._stopping.is_set():
                return
            if self._running.busy(work.server_id) and not self._is_ours(work):
                _log.info("work_came_late", kind=work.kind, epoch=work.epoch)
                return
            with self._running.begin(work) as task:
                if task is None:
                    _log.info("work_came_twice", kind=work.kind, epoch=work.epoch)
                    return
                told = self._do_in_turn(task, perform)
            self._power.work_ended(work.server_id, told)
            if work.server_id in self._to_refresh:
                self._refresh(work.server_id)

    def _is_ours(self, work: Work) -> bool:
        """Asked when this would cut off other work for the same server: is it really the newer one?"""
        held = {work.operation_id: work.epoch}
        try:
            answer = self._parts.ask("renew_leases", RenewLeases(host=self._parts.host, held=held), Held)
        except Unavailable:
            return False  # then it comes again
        return work.operation_id in answer.operation_ids

    def _do_in_turn(self, task: Task, perform: Perform) -> PowerState | None:
        """The power state that the conductor was told at the end; None if it was told none."""
        journal = Journal(self._parts, task.work, task.cancel)
        self._look_later(journal)
        self._renew_later(task.work.lease)
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
                self._untidy.set()
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
        if not isinstance(error, FailedAfterCommit):
            self._undo(journal)
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
        if work.kind != "build" or self._running.superseded(task):
            return
        try:
            if not is_placed_here(self._parts, work.server_id):
                self._undo(journal)
        except Unavailable as error:
            # The next comparison with the records will see.
            _log.warning("work_left", kind=work.kind, error=error.message)

    def get_console_output(self, message: ConsoleOutput) -> Text:
        return Text(text=self._parts.driver.console_output(message.server_id, message.length))

    def compare(self, _message: FromHost) -> None:
        """The records differ from what this host reported."""
        if self._repairs is not None:
            self._repairs.after(0, self._compare)

    # --- what happens by itself

    def _report(self, starting: bool = False) -> None:
        """Who begins waits for the answer; afterwards it is a sign of life that comes again.

        Who may have been taken for dead tidies up before: with the sign of life comes new work.
        """
        if not starting and self._was_away():
            _log.info("comparing_after_absence")
            self._compare()
            self._refresher.compare()
        seen = now()
        network = self._parts.network
        told = structs.replace(
            self._parts.driver.report(), follows_network=network.follows, plug=network.plug_kind
        )
        if starting:
            self._parts.ask("report", Report(host=self._parts.host, report=told, starting=True), Nothing)
        else:
            message = Report(host=self._parts.host, report=told, likeness=self._likeness())
            self._parts.bus.tell("conductor", "report", message)
            self._power.tell_all()
        self._reported = seen

    def _likeness(self) -> str | None:
        """Now and then; a hypervisor that does not answer keeps no report back."""
        if not self._likeness_due.is_set():
            return None
        try:
            told = likeness(self._parts)
        except KilonovaError:
            return None
        self._likeness_due.clear()
        return told

    def _was_away(self) -> bool:
        """Whether a report is missing: this process slept, or there was no way to a conductor."""
        silence = now() - self._reported
        return (
            silence > self._parts.config.compute.service_down_time
            or self._parts.bus.up_since > self._reported
        )

    def _renew_later(self, lease: float) -> None:
        """One renewal is due at a time, none without work. How long a lease is, conductors say."""
        if self._leases is not None and self._renewal_due.acquire(blocking=False):
            self._leases.after(lease / 3, lambda: self._renew(lease))

    def _renew(self, lease: float) -> None:
        self._renewal_due.release()
        try:
            lease = self._renew_leases() or lease
        finally:
            if self._running.held():
                self._renew_later(lease)

    def _renew_leases(self) -> float | None:
        """Seconds until the leases run out; None if there are none."""
        held = self._running.held()
        if held:
            answer = self._parts.ask("renew_leases", RenewLeases(host=self._parts.host, held=held), Held)
            self._running.cancel_all_but(held, set(answer.operation_ids))
            return answer.lease
        return None

    def _compare(self) -> None:
        reconcile(self._parts, self._running, self._refresher.learn)

    def _undo(self, journal: Journal) -> None:
        if not journal.undo():
            self._untidy.set()

    def _tidy(self) -> None:
        """Compare the host with the records as soon as the hypervisor answers."""
        if not self._untidy.is_set():
            return
        self._untidy.clear()
        try:
            self._compare()
        except Unavailable:
            self._untidy.set()

    def _repair(self) -> None:
        for line in self._parts.network.repair():
            _log.warning("network_repaired", what=line)

    def _metadata(self, network_id: str, address: str) -> GuestMetadata | None:
        """Whose address this is on that network, and what to tell it."""
        for vif in self._parts.network.plugged().values():
            on_it = vif.network_id == network_id and any(own.ip == address for own in vif.addresses)
            if on_it and vif.server_id is not None:
                query = ServerQuery(host=self._parts.host, server_id=vif.server_id)
                try:
                    told = self._parts.ask("guest_metadata", query, GuestMetadata)
                except NotFound:
                    return None
                return structs.replace(told, vendor_data=vendor_data.static(self._parts.config.api))
        return None

    def _keep_password(self, about: GuestMetadata, password: str) -> None:
        message = SetPassword(host=self._parts.host, server_id=about.server_id, password=password)
        self._parts.ask("set_password", message, Nothing)
