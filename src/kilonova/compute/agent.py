"""The agent of one host: takes work from the bus, reports, watches its guests, keeps the host as the records
have it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import partial

from msgspec import structs

from kilonova import log
from kilonova.bus.base import Handler, Subscription
from kilonova.cancel import Cancel
from kilonova.compute import (
    actions,
    build,
    delete,
    interfaces,
    metadata,
    rebuild,
    rescue,
    server_volumes,
    shelve,
    snapshot,
)
from kilonova.compute.alarm import Alarm
from kilonova.compute.images import ImageKeeper
from kilonova.compute.insist import insist
from kilonova.compute.journal import Journal
from kilonova.compute.parts import Parts
from kilonova.compute.power import PowerWatch
from kilonova.compute.reconcile import likeness, reconcile
from kilonova.compute.refresh import Refresher
from kilonova.compute.renewals import Renewals
from kilonova.compute.running import Running
from kilonova.compute.work import Worker
from kilonova.domain import hosts
from kilonova.domain.clock import now
from kilonova.domain.errors import BuildFailed, KilonovaError, Unavailable
from kilonova.domain.messages import (
    ConsoleOutput,
    Copied,
    CopyVolume,
    Diagnosed,
    FromHost,
    HeldStill,
    HoldStill,
    Nothing,
    Ready,
    Report,
    ServerRef,
    Text,
    VolumeCopy,
    VolumesChanged,
    Work,
)
from kilonova.domain.servers import PowerState
from kilonova.engine.ticker import Ticker

_log = log.get("compute")

_LIKENESS_INTERVAL = 50.0
"""Seconds after which the next report lets a conductor see whether the host is as the records have it."""
_REFRESH_INTERVAL = 60.0
"""Seconds after which what ports may let pass is asked for though nobody said that it changed: nothing else
tells of a change whose word was lost (domain/likeness.py)."""
_RECONCILE_INTERVAL = 600.0
"""Seconds between two comparisons that nobody asked for."""
_REPAIR_INTERVAL = 5.0
"""Seconds between two looks at the host's network, for what no notice tells of (alarm.py): what is wrong
with it is right again within ten."""


_WITH_STEPS: dict[str, Callable[[Parts, Work, Journal, Cancel], PowerState]] = {
    **dict.fromkeys(snapshot.KINDS, snapshot.create_image),
    "rebuild": rebuild.rebuild,
    "rescue": rescue.rescue,
    "unrescue": rescue.unrescue,
    "shelve": shelve.shelve,
    "shelve_offload": shelve.shelve_offload,
}
"""Actions that are more than one step."""


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
        self._images = ImageKeeper(parts)
        self._subscriptions: list[Subscription] = []
        self._repairs: Ticker | None = None
        self._likeness_due = threading.Event()
        self._reported = 0.0
        self._stopping = threading.Event()
        self._renewals = Renewals(parts, self._running)
        self._worker = Worker(parts, self._running, self._renewals, self._stopping, self._work_ended)
        self._to_refresh: set[str] = set()
        """Servers whose NICs must be compared with the record when nothing else is done to them."""

    def start(
        self,
        reports: Ticker,
        leases: Ticker,
        looks: Ticker,
        repairs: Ticker,
        mends: Ticker,
        images: Ticker,
        stop: threading.Event | None = None,
    ) -> None:
        """Wait for the hypervisor and a conductor, compare the host with the records, then take work.

        The tickers may be shared by many agents. What shares one waits for it: renewals have their own, and
        so have the network's mends, which need no conductor: they begin before there is one; images
        may take minutes to come.
        StaleEpoch: ``stop`` was set while there was no conductor.
        """
        parts = self._parts
        parts.network.start(partial(metadata.whose, parts), metadata.deeds(parts))
        mends.every(_REPAIR_INTERVAL, self._repair)
        parts.network.on_change(Alarm(mends, self._repair).ring)
        parts.driver.start(self._power.on_event)
        self._renewals.start(leases)
        self._worker.start(looks)
        self._repairs = repairs
        stop = stop or self._stopping
        insist(parts.driver.check, math.inf, stop, "hypervisor_away")
        insist(lambda: self._report(starting=True), math.inf, stop)
        insist(self._begin_network, math.inf, stop)
        differing: set[str] = set()  # nobody would take the word before this serves
        insist(lambda: self._reconcile(differing.add), math.inf, stop)
        self._images.start(images)
        self._serve()
        insist(self._ready, math.inf, stop)
        for server_id in differing:
            self._refresh_soon(server_id)
        reports.every(parts.config.compute.report_interval, self._report)
        repairs.every(_LIKENESS_INTERVAL, self._likeness_due.set)
        repairs.every(_REFRESH_INTERVAL, self._refresher.compare)
        repairs.every(_RECONCILE_INTERVAL, self._compare)
        repairs.every(_REPAIR_INTERVAL, self._tidy)

    def stop(self) -> None:
        """Take no more work; what is under way stops at its next step and goes on at the next start.
        Guests go on."""
        self._stopping.set()
        self._running.cancel_all()
        self._images.stop()
        self._parts.driver.stop()  # who waits for a guest wakes up
        for subscription in self._subscriptions:
            subscription.close()
        self._refresher.close()
        self._parts.network.stop()

    def _begin_network(self) -> None:
        """What the host cannot do of it keeps the agent from nothing else; each minute it is tried again."""
        try:
            self._refresher.compare()
        except BuildFailed as error:
            _log.error("network_not_as_told", error=error.message)

    def _ready(self) -> None:
        held = list(self._running.held())
        self._parts.ask("ready", Ready(host=self._parts.host, held=held), Nothing)

    def _serve(self) -> None:
        short: dict[str, Handler] = {
            "perform_action": self.perform_action,
            "delete_instance": self.delete_instance,
            "change_interfaces": self.change_interfaces,
            "change_volumes": self.change_interfaces,
            "volumes_changed": self.volumes_changed,
            "copy_volume": self.copy_volume,
            "drop_copy": self.drop_copy,
            "hold_still": self.hold_still,
            "go_on": self.go_on,
            "refresh_interfaces": self.refresh_interfaces,
            "get_console_output": self.get_console_output,
            "get_diagnostics": self.get_diagnostics,
            "get_host_uptime": self.get_host_uptime,
            "network_changed": self._refresher.network_changed,
            "compare": self.compare,
            "cache_images": self._images.cache_images,
        }
        long: dict[str, Handler] = {
            "build_and_run_instance": self.build_and_run_instance,
            "perform_action": self.perform_action,
        }
        bus, host = self._parts.bus, self._parts.host
        self._subscriptions = [
            bus.serve(hosts.topic(host), short, self._workers),
            bus.serve(hosts.builds_topic(host), long, self._builders, calls=False),
        ]

    # --- work

    def build_and_run_instance(self, work: Work) -> None:
        parts, learn = self._parts, self._refresher.learn
        self._worker.do(
            work,
            lambda task, journal: build.build_and_run_instance(parts, work, journal, task.cancel, learn),
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
        while server_id in self._to_refresh and self._refreshed(server_id):
            pass  # word that came meanwhile found the server reserved: it may be of what is not seen yet

    def _refreshed(self, server_id: str) -> bool:
        """False, and nothing is done, if it is somebody else's now."""
        with self._running.reserved(server_id) as free:
            if free and server_id in self._to_refresh:
                self._to_refresh.discard(server_id)
                try:
                    interfaces.refresh_interfaces(self._parts, server_id, self._refresher.learn)
                except Unavailable:
                    self._to_refresh.add(server_id)
                    raise
            return free

    def perform_action(self, work: Work) -> None:
        parts, learn = self._parts, self._refresher.learn
        if work.kind in interfaces.KINDS:
            self._worker.do(
                work,
                lambda task, journal: interfaces.change_interfaces(parts, work, journal, task.cancel, learn),
            )
        elif work.kind == "unshelve":
            self._worker.do(
                work, lambda task, journal: shelve.unshelve(parts, work, journal, task.cancel, learn)
            )
        elif work.kind in server_volumes.KINDS:
            self._worker.do(
                work,
                lambda task, journal: server_volumes.change_volumes(parts, work, journal, task.cancel),
            )
        else:
            perform = _WITH_STEPS.get(work.kind, actions.perform_action)
            self._worker.do(work, lambda task, journal: perform(parts, work, journal, task.cancel))

    def volumes_changed(self, _message: VolumesChanged) -> None:
        """Builds that wait for their volumes ask again."""
        self._parts.volumes_changed.say()

    def copy_volume(self, message: CopyVolume) -> Copied:
        """For a snapshot: asked again until it is done, by the volume's manager."""
        copied = server_volumes.copy_volume(self._parts, message)
        self._parts.faults.reach("copy_volume.answer.before")
        return copied

    def drop_copy(self, message: VolumeCopy) -> Nothing:
        self._parts.driver.drop_copy(message.server_id, message.volume_id, message.snapshot_id)
        self._parts.faults.reach("drop_copy.answer.before")
        return Nothing()

    def hold_still(self, message: HoldStill) -> HeldStill:
        held = server_volumes.hold_still(self._parts, message)
        self._parts.faults.reach("hold_still.answer.before")
        return held

    def go_on(self, message: VolumeCopy) -> HeldStill:
        return server_volumes.go_on(self._parts, message)

    def _work_ended(self, server_id: str, told: PowerState | None) -> None:
        self._power.work_ended(server_id, told)
        try:
            self._refresh(server_id)
        except KilonovaError as error:  # who waits for the work's end has not asked for this
            _log.warning("interfaces_not_as_recorded", server=server_id, error=error.message)

    def delete_instance(self, work: Work) -> None:
        self._worker.do(work, lambda _task, journal: delete.delete_instance(self._parts, work, journal))

    def get_console_output(self, message: ConsoleOutput) -> Text:
        return Text(text=self._parts.driver.console_output(message.server_id, message.length))

    def get_diagnostics(self, message: ServerRef) -> Diagnosed:
        return Diagnosed(diagnostics=self._parts.driver.diagnostics(message.server_id))

    def get_host_uptime(self, _message: Nothing) -> Text:
        return Text(text=self._parts.driver.host_uptime())

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
            self._compare_network()
        seen = now()
        network = self._parts.network
        told = structs.replace(
            self._parts.driver.report(),
            follows_network=network.follows,
            plug=network.plug_kind,
            tunnel_address=network.tunnel_address,
            failed_routers=network.failed_routers(),
        )
        if starting:
            self._parts.ask("report", Report(host=self._parts.host, report=told, starting=True), Nothing)
        else:
            message = Report(host=self._parts.host, report=told, likeness=self._likeness())
            self._parts.bus.tell("conductor", "report", message)
            self._power.tell_all()
        self._reported = seen

    def _compare_network(self) -> None:
        """Neither what the host cannot do, nor a switch that does not answer, keeps the report back: each
        minute it is tried again."""
        try:
            self._refresher.compare()
        except KilonovaError as error:
            _log.error("network_not_as_told", error=error.message)

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

    def _compare(self) -> None:
        self._reconcile(self._refresh_soon)
        self._refresh_all()  # told so while the comparison had the server to itself

    def _reconcile(self, refresh: Callable[[str], None]) -> None:
        reconcile(self._parts, self._running, self._refresher.learn, refresh)

    def _refresh_soon(self, server_id: str) -> None:
        """By the threads that take work: a guest may take its time to let go of a NIC."""
        host = self._parts.host
        self._parts.bus.cast(hosts.topic(host), "refresh_interfaces", ServerRef(server_id=server_id))

    def _refresh_all(self) -> None:
        """One server's trouble is not the others'; Unavailable would be everybody's."""
        for server_id in list(self._to_refresh):
            try:
                self._refresh(server_id)
            except Unavailable:
                raise
            except KilonovaError as error:
                _log.warning("interfaces_not_as_recorded", server=server_id, error=error.message)

    def _tidy(self) -> None:
        """Do what could not be done while the conductor, or the hypervisor, did not answer."""
        self._parts.driver.mend()
        self._refresh_all()
        if not self._worker.untidy.is_set():
            return
        self._worker.untidy.clear()
        try:
            self._compare()
        except Unavailable:
            self._worker.untidy.set()

    def _repair(self) -> None:
        for line in self._parts.network.repair():
            _log.warning("network_repaired", what=line)
