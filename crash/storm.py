"""The random run: builds while everything dies, by a plan drawn from a seed; then all must be well again."""

from __future__ import annotations

import json
import re
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from crash import plan as plans
from crash.cluster import TWO_BACKENDS, Backends, Cluster, backends
from crash.fates import Fates, Rates
from crash.oracle import orphans, settle, statuses
from crash.plan import Fault, plan
from crash.service import Service
from crash.users import Users

COUNTS = {"api": 2, "conductor": 2, "scheduler": 2, "compute": 3, "volume": 2}
SLOW = {
    "step_seconds": {"ensure_base_image": 0.3, "ensure_disks": 0.5, "ensure_paused": 0.5, "destroy": 0.5}
    | {"attach_volume": 0.3, "detach_volume": 0.3},
    "step_failures": {"ensure_disks": 0.02},
}
"""The fake hosts: builds take their time, so that who dies leaves some half done; some fail."""
LIMIT = 60.0
"""Seconds after the last fault within which everything is at its end."""
_LOOK = 0.05


@dataclass
class Report:
    """``wrong``: what was found; empty when all is well."""

    seed: int
    injected: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    """What servers in ERROR say of themselves."""
    seconds: float = 0.0
    """From the last fault until all was at its end."""
    wrong: list[str] = field(default_factory=list)


Say = Callable[[str], None]


def storm(
    seed: int,
    seconds: float,
    builds: int,
    say: Say,
    every: float = 1.0,
    keep: str = "",
    counts: Mapping[str, int] = COUNTS,
    among: Callable[[], AbstractContextManager[Backends]] = backends,
) -> Report:
    """``every``: seconds between two kills. ``counts``: how many of each service.

    ``keep``: a folder for the logs if anything is wrong. ``among``: a broker and a database server that may
    be stopped and started.
    """
    fates = Fates(str(seed), Rates())
    report = Report(seed, messages=fates.counts)
    with tempfile.TemporaryDirectory(prefix="kilonova-crash-") as folder, among() as (rabbit, pg, url):
        more = {"fake": SLOW, **TWO_BACKENDS}
        cluster = Cluster(Path(folder), rabbit, pg, url, counts, fates, more)
        try:
            fates.calm()
            cluster.start()
            cluster.furnish()
            fates.stir()
            _break_and_look(
                cluster, fates, report, plan(seed, seconds, list(cluster.services), every), builds, say
            )
        except AssertionError as error:
            report.wrong.append(str(error))
        finally:
            cluster.close()
            if report.wrong and keep:
                cluster.keep_logs(Path(keep))
    return report


def _break_and_look(
    cluster: Cluster, fates: Fates, report: Report, faults: list[Fault], builds: int, say: Say
) -> None:
    users = Users(cluster, report.seed, builds)
    users.begin()
    weather = _Weather(cluster, report, say)
    weather.blow(faults)
    fates.calm()
    last = time.monotonic()
    report.asked = users.counts
    try:
        users.stop()
        weather.watch()
        settle(cluster, LIMIT - (time.monotonic() - last), weather.watch)
        report.seconds = time.monotonic() - last
    finally:
        report.ended = statuses(cluster)
        report.faults = _faults(cluster)
    say("all at rest; deleting all")
    cluster.delete_all()
    settle(cluster, LIMIT, weather.watch)
    weather.watch()
    assert not any(cluster.on_hosts().values()), f"left on hosts: {cluster.on_hosts()}"
    assert not cluster.volume_files(), f"left in the store: {cluster.volume_files()}"
    assert not (left := orphans(cluster)), f"without an owner: {left}"


class _Weather:
    """Does what is planned. Who dies is started again at once, as by an init system."""

    def __init__(self, cluster: Cluster, report: Report, say: Say) -> None:
        self._cluster = cluster
        self._report = report
        self._say = say
        self._broker = threading.Thread()

    def blow(self, faults: list[Fault]) -> None:
        """Returns when the last one is over."""
        began = time.monotonic()
        for fault in faults:
            while (wait := began + fault.at - time.monotonic()) > 0:
                self.watch()
                time.sleep(min(wait, _LOOK))
            self._say(f"{fault.at:5.1f} s  {fault.kind} {fault.target}")
            self._do(fault)
            self._report.injected[fault.kind] += 1
        if self._broker.ident is not None:
            self._broker.join()

    def watch(self) -> None:
        """Who ended without us is a finding; it is started again, to see how the others go on."""
        for service in self._cluster.services.values():
            self._look_at(service)

    def _look_at(self, service: Service) -> None:
        if not service.died:
            return
        found = f"{service.name} ended by itself, {service.end}"
        self._say(found)
        if found not in self._report.wrong:
            self._report.wrong.append(found)
        service.kill()
        service.begin()

    def _do(self, fault: Fault) -> None:
        cluster = self._cluster
        if fault.kind == plans.KILL:
            self._look_at(cluster.services[fault.target])
            cluster.services[fault.target].kill()
            cluster.services[fault.target].begin()
        elif fault.kind == plans.FREEZE:
            cluster.services[fault.target].send(signal.SIGSTOP)
        elif fault.kind == plans.THAW:
            cluster.services[fault.target].send(signal.SIGCONT)
        elif fault.kind == plans.CUT:
            cluster.proxies[fault.target].cut()
        elif fault.kind == plans.MEND:
            cluster.proxies[fault.target].mend()
        elif fault.kind == plans.DATABASE_RESTARTS:
            self._restart_database(signal.SIGINT)
        elif fault.kind == plans.DATABASE_CRASHES:
            self._restart_database(signal.SIGQUIT)
        else:
            self._next_of_broker(
                cluster.rabbit.stop if fault.kind == plans.BROKER_STOPS else cluster.rabbit.start
            )

    def _restart_database(self, how: signal.Signals) -> None:
        """By the thread that began it: it would end with another."""
        self._cluster.postgresql.stop(how)
        self._cluster.postgresql.start()

    def _next_of_broker(self, act: Callable[[], object]) -> None:
        """It takes seconds: others die meanwhile. One after the other."""
        before = self._broker

        def run() -> None:
            if before.ident is not None:
                before.join()
            act()

        self._broker = threading.Thread(target=run, daemon=True)
        self._broker.start()


def _faults(cluster: Cluster) -> Counter[str]:
    with cluster.database() as db:
        query = "SELECT fault FROM servers WHERE deleted_at IS NULL AND vm_state = 'error'"
        rows = db.execute(query).fetchall()
    said = [json.loads(fault) if isinstance(fault, str) else fault for (fault,) in rows]
    return Counter(re.sub(r"[0-9a-f-]{36}|\d+", "…", fault["message"]) for fault in said)
