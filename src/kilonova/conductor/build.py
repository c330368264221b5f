"""build_instances: from an accepted request to a host that builds it.

Take the operation, ask the scheduler, hand over. When the host reports a failure, the same function runs
again with the next host; when nothing is left to try, the server gets its fault.
"""

from __future__ import annotations

import math
from typing import Any

import sqlalchemy as sa

from kilonova import log
from kilonova.conductor import server_volume_ends
from kilonova.conductor.parts import Parts
from kilonova.domain.clock import now
from kilonova.domain.errors import KilonovaError, NotFound, NoValidHost, RolledBack, StaleEpoch, Unavailable
from kilonova.domain.hosts import builds_topic
from kilonova.domain.messages import PerformOperation, SelectDestinations, Selection, StepRecord, Work
from kilonova.domain.servers import BuildSpec, PowerState, TaskState, VmState
from kilonova.engine import lease
from kilonova.scheduler.decide import turned_away
from kilonova.scheduler.filters.compute import COMPUTE
from kilonova.scheduler.rules import need_of
from kilonova.store import claims, hosts, operations, servers
from kilonova.store.database import Row
from kilonova.store.repeat import repeated

_log = log.get("conductor")

_LOOK_MAY_BE_OLD = 1.0
"""Seconds: longer than what a scheduler says of silent hosts counts, and clocks differ."""

HOST_DOWN = "host_down"
"""The step in the journal of a build whose host went down."""


def build_instances(parts: Parts, message: PerformOperation) -> None:
    """Bring one build a step further: to a host, or to its end."""
    work, spec = _take(parts, message.operation_id)
    if work is not None:
        go_on(parts, work, spec)


def go_on(parts: Parts, work: Row, spec: BuildSpec | None) -> None:
    """With a build that this conductor owns."""
    with log.bound(operation=work.id, server=work.server_id):
        try:
            _place(parts, work, spec)
        except StaleEpoch:
            _log.info("build_moved_on")
        except KilonovaError as error:
            # It stays open: its lease runs out and the sweeper tries again, until the deadline.
            _log.warning("build_not_ended", error=error.message)


@repeated
def _take(parts: Parts, operation_id: str) -> tuple[Row | None, BuildSpec | None]:
    """The operation, if it is ours now, and what to build, in one transaction."""
    with parts.db.write() as conn:
        work = lease.take(parts.db, operation_id, parts.name, parts.config.operations.lease)
        return work, None if work is None else servers.find_spec(conn, work.server_id)


def _place(parts: Parts, work: Row, spec: BuildSpec | None) -> None:
    """Hand the build to its host, if it has one that lives; else find one."""
    left: str | None = None
    if work.host is not None:
        if _still_there(parts, work):
            parts.faults.reach("build.hand_over.before")
            _hand_over(parts, work, work.host, None)
            return
        parts.faults.reach("build.leave.before")
        work, left = _leave(parts, work), work.host
    started = now()
    try:
        parts.faults.reach("build.select_destinations.before")
        if spec is None:
            raise NotFound(f"Instance {work.server_id} could not be found.")
        selection = _select(parts, work, spec, left)
        parts.faults.reach("build.select_destinations.after")
        _hand_over(parts, work, selection.host, selection, started)
    except StaleEpoch:
        raise
    except Unavailable as error:
        postpone(parts, work, error)
    except KilonovaError as error:
        if isinstance(error, NoValidHost) and may_report_soon(parts, error, started):
            postpone(parts, work, error)
            return
        message = error.message if work.message is None else f"{error.message} Before that: {work.message}"
        _log.warning("build_failed", error=message)
        fail(parts, work, message, error.details, decision(started, "Error", error.message))


def postpone(parts: Parts, work: Row, error: KilonovaError) -> None:
    """It is taken up again in a moment, by whoever is quickest."""
    _log.warning("operation_postponed", kind=work.kind, error=error.message)
    with parts.db.write() as conn:
        lease.postpone(conn, work, error.message)


def may_report_soon(parts: Parts, error: NoValidHost, asked: float) -> bool:
    """Whether there are hosts that seemed down only because nobody could hear them. Some may have reported
    since the scheduler was ``asked``, or since it last looked who lives."""
    if parts.silence == math.inf and turned_away(error, COMPUTE):
        with parts.db.read() as conn:
            return hosts.any_silent(conn, parts.config.compute.service_down_time, asked - _LOOK_MAY_BE_OLD)
    return False


def decision(started: float, result: str, message: str | None = None) -> StepRecord:
    return StepRecord(
        name="select_destinations", started_at=started, finished_at=now(), result=result, message=message
    )


def _still_there(parts: Parts, work: Row) -> bool:
    """A build that was on a host when its owner was lost goes on there, if the host lives."""
    with parts.db.read() as conn:
        return hosts.is_up(conn, work.host, parts.silence)


@repeated
def _leave(parts: Parts, work: Row) -> Row:
    """Its host is gone: at once it has no place and no claim there, so that nothing is built unclaimed
    if the host comes back. The operation after that.

    That host has not failed to build: it was no attempt, and may be chosen again when it is back. What bounds
    that is the build's deadline.
    """
    rest = [name for name in work.tried_hosts if name != work.host]
    down = StepRecord(
        name=HOST_DOWN,
        started_at=now(),
        finished_at=now(),
        result="Error",
        message="the host went down during the build",
    )
    with parts.db.write() as conn:
        lease.kept(conn, work, host=None, attempt=max(0, work.attempt - 1), tried_hosts=rest)
        claims.release(conn, work.server_id)
        servers.change(conn, work.server_id, host=None, task_state=TaskState.SCHEDULING)
        operations.put_steps(conn, work.id, work.epoch, work.host, [down])
        left = operations.get(conn, work.id)
        assert left is not None
        return left


def _select(parts: Parts, work: Row, spec: BuildSpec, left: str | None) -> Selection:
    """An alternate of an earlier decision if one can still be claimed, else a new decision. ``left``: the
    host that just went down, whatever the scheduler knows of it."""
    without = work.tried_hosts if left is None else [*work.tried_hosts, left]
    for alternate in work.alternates:
        if alternate not in without and (zone := _claim(parts, work, spec, alternate)):
            rest = [name for name in work.alternates if name != alternate]
            return Selection(host=alternate, alternates=rest, availability_zone=zone)
    request = SelectDestinations(operation_id=work.id, epoch=work.epoch, spec=spec, exclude=without)
    return parts.bus.call("scheduler", "select_destinations", request, Selection)


@repeated
def _claim(parts: Parts, work: Row, spec: BuildSpec, host: str) -> str | None:
    """Claim an alternate: its zone, or None if it is down or full now."""
    with parts.db.write() as conn:
        lease.kept(conn, work)
        claims.release(conn, work.server_id)
        if not hosts.takes_builds(conn, host, parts.config.compute.service_down_time):
            return None
        if claims.claim(conn, work.server_id, host, need_of(spec)) is None:
            return None
        return hosts.zone(conn, host)


@repeated
def _hand_over(
    parts: Parts, work: Row, host: str, selection: Selection | None, started: float | None = None
) -> None:
    """One transaction: the server is placed, the operation is the host's. Then tell the host."""
    with parts.db.write() as conn:
        values: dict[str, Any] = {}
        if selection is not None:
            values = {
                "attempt": work.attempt + 1,
                "tried_hosts": [*work.tried_hosts, host],
                "alternates": selection.alternates,
            }
        handed = lease.hand_to_host(conn, work, host, parts.config.operations.lease, **values)
        if selection is None:
            server = servers.for_host(conn, work.server_id)
        else:
            placed = servers.place(
                conn, work.server_id, host, selection.availability_zone, TaskState.NETWORKING
            )
            if placed is None:
                raise Unavailable("The place that was chosen was given away.")
            server = placed
            step = decision(started or now(), "Success")
            operations.put_steps(conn, work.id, work.epoch, None, [step])
    parts.faults.reach("build.hand_over.after")
    _log.info("build_handed_over", host=host, attempt=handed.attempt)
    tell_host(parts, work, host, server)


def tell_host(parts: Parts, work: Row, host: str, server: Row) -> None:
    """``work`` as it was taken; ``server``: what the host must know of it (servers.for_host)."""
    parts.bus.cast(
        builds_topic(host),
        "build_and_run_instance",
        Work(
            operation_id=work.id,
            epoch=work.epoch,
            kind=work.kind,
            server_id=work.server_id,
            request_id=work.request_id,
            deadline=work.deadline,
            lease=parts.config.operations.lease,
            spec=server.spec,
            vifs=server.vifs,
            availability_zone=server.availability_zone,
            payload=work.payload,
        ),
    )


def try_elsewhere(conn: sa.Connection, parts: Parts, work: Row, message: str) -> bool:
    """After a failure on a host: free the place and make the operation anybody's again.

    False if it was the last attempt. The caller rings the conductor when its transaction is done.
    """
    hosts.count_build(conn, work.host, failed=True)
    if work.attempt >= parts.config.operations.max_attempts:
        return False
    claims.release(conn, work.server_id)
    servers.change(conn, work.server_id, host=None, task_state=TaskState.SCHEDULING)
    lease.give_back(conn, work, host=None, message=message)
    return True


@repeated
def fail(parts: Parts, work: Row, message: str, details: object, step: StepRecord | None = None) -> None:
    """The build, which this conductor owns, ends in ERROR with a fault; place, ports and volumes are free.

    One transaction: who slept past the lease touches nothing. Who dies here, or finds the network service
    away, leaves an operation that is open and is tried again.
    """
    parts.faults.reach("build.deallocate_networks.before")
    try:
        with parts.db.write() as conn:
            lease.kept(conn, work)
            parts.network.deallocate_for_instance(work.server_id)
            server_volume_ends.release_all(conn, parts, work.server_id)
            parts.faults.reach("build.deallocate_networks.after")
            if step is not None:
                operations.put_steps(conn, work.id, work.epoch, None, [step])
            end_in_error(conn, work, message, details)
    except (StaleEpoch, RolledBack):
        raise
    except KilonovaError as error:
        postpone(parts, work, error)


def end_in_error(conn: sa.Connection, work: Row, message: str, details: object) -> None:
    """In the transaction that has deallocated the ports, where that can be done."""
    message, details = _with_hosts_down(conn, work, message, details)
    lease.close(conn, work, operations.FAILED, message)
    claims.release(conn, work.server_id)
    servers.change(
        conn,
        work.server_id,
        vm_state=VmState.ERROR,
        task_state=None,
        power_state=PowerState.NOSTATE,
        host=None,
        vifs=[],
        fault={"code": 500, "message": message, "details": details, "created": now()},
    )


def _with_hosts_down(conn: sa.Connection, work: Row, message: str, details: object) -> tuple[str, object]:
    """The fault's words and details, if hosts went down under the build: that it was so is for everybody,
    which they were is for the admin."""
    down = [step.host for step in operations.steps_of(conn, [work.id]) if step.name == HOST_DOWN]
    if not down:
        return message, details
    times = {1: "A", 2: "Twice a"}.get(len(down), f"{len(down)} times a")
    message = f"{message} {times} host went down during the build."
    if isinstance(details, str):
        return message, f"{details}\nWent down during the build: {', '.join(down)}"
    known = details if isinstance(details, dict) else {}
    return message, {**known, "went_down": down}
