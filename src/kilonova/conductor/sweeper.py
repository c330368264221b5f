"""The sweeper: finds every operation that nobody works on, and every state that nothing explains.

It is what makes a lost message cost time and nothing else (invariants 2 and 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from kilonova import log
from kilonova.conductor import actions, build, delete, interfaces, server_volume_ends, shelve, volumes
from kilonova.conductor.parts import Parts
from kilonova.conductor.reports import METHOD_OF_KIND
from kilonova.domain.actions import VOLUME_COMES
from kilonova.domain.clock import now
from kilonova.domain.errors import KilonovaError, RolledBack, StaleEpoch, Timeout, Unavailable
from kilonova.domain.messages import PerformOperation
from kilonova.domain.servers import PowerState, VmState
from kilonova.domain.volumes import manager_topic
from kilonova.engine import lease
from kilonova.store import claims, hosts, idempotency, operations, servers
from kilonova.store.database import Row

_log = log.get("sweeper")

_LIMBO_AGE = 10.0
"""Seconds that a transitional state without an operation is left alone: its transaction may be young."""

_SHORTEST_PAUSE = 0.2
"""Seconds: leases that end together are one round."""


def sweep(parts: Parts) -> None:
    """One round. Safe from any number of conductors at once: taking an operation decides who does it.

    What cannot be swept keeps nothing else from it. Unavailable: the database is, and the round is over."""
    before = now() - _LIMBO_AGE
    with parts.db.read() as conn:
        overdue = operations.overdue(conn)
        expired = operations.expired(conn, _longest(parts))
        of_the_dead = _of_the_dead(conn, [*overdue, *expired])
        limbo = servers.in_limbo(conn, before)
        aged = idempotency.any_before(conn, _oldest_key(parts))
    for row in overdue:
        with log.bound(request_id=row.request_id), _alone(operation=row.id):
            if row.kind in VOLUME_COMES and row.id not in of_the_dead:
                _give_again(parts, row)  # if nobody works on it: its host ends it
            else:
                _end(parts, row.id, row.kind)
    for row in expired:
        with log.bound(request_id=row.request_id), _alone(operation=row.id):
            if row.id in of_the_dead:
                _end(parts, row.id, row.kind)
            else:
                _log.info("operation_taken_up_again", operation=row.id, kind=row.kind, host=row.host)
                _give_again(parts, row)
    for server_id in limbo:
        with _alone(server=server_id):
            _repair(parts, server_id, before)
    if aged:
        with _alone(of="idempotency keys"), parts.db.write() as conn:
            idempotency.purge(conn, _oldest_key(parts))
    with _alone(of="volumes"):
        volumes.repair(parts, before)
    with _alone(of="attachments"):
        volumes.mend_attachments(parts, before)
    with _alone(of="routers"):
        parts.network.rehome_routers(parts.silence)
    with _alone(of="shelved servers"):
        shelve.offload_due(parts)


@contextmanager
def _alone(**what: str) -> Iterator[None]:
    """Whatever goes wrong in the block is told, and comes again in the next round. What others have locked or
    changed is this one's trouble; a database that does not answer is everybody's."""
    try:
        yield
    except (RolledBack, Timeout) as error:
        _log.warning("sweep_failed", error=error.message, **what)
    except Unavailable:
        raise
    except Exception:  # noqa: BLE001 - one that can never be swept would keep all others as they are
        _log.exception("sweep_failed", **what)


def _of_the_dead(conn: sa.Connection, rows: Sequence[Row]) -> set[str]:
    """The work that brings a volume to a guest of a host that an admin forced down: the admin's word, and no
    other, says that this guest writes to nothing any more."""
    comes = [row for row in rows if row.kind in VOLUME_COMES]
    dead = hosts.forced_down(conn, {row.host for row in comes})
    return {row.id for row in comes if row.host in dead}


def _give_again(parts: Parts, row: Row) -> None:
    """To whoever takes up operations of its kind."""
    if row.kind in volumes.KINDS:
        parts.bus.cast(manager_topic(row.host), "perform", PerformOperation(operation_id=row.id))
    else:
        method = METHOD_OF_KIND.get(row.kind, "perform_action")
        parts.bus.cast("conductor", method, PerformOperation(operation_id=row.id))


def pause(parts: Parts) -> float:
    """Seconds until the next round: less than _longest() if a lease runs out before."""
    longest = _longest(parts)
    with parts.db.read() as conn:
        lease_end = operations.next_lease_end(conn)
    if lease_end is None:
        return longest
    return min(longest, max(_SHORTEST_PAUSE, lease_end - now()))


def _longest(parts: Parts) -> float:
    """Seconds between two rounds. What was accepted since the last one merely waits for its turn, mostly."""
    return min(parts.config.operations.sweep_interval, parts.config.operations.lease)


def _oldest_key(parts: Parts) -> float:
    return now() - parts.config.api.idempotency_key_lifetime


def _end(parts: Parts, operation_id: str, kind: str) -> None:
    """Past its deadline, or of the dead: take it from whoever has it, and end it with a fault that names the
    last step."""
    with parts.db.write() as conn:
        operations.expire_lease(conn, operation_id)
    parts.faults.reach(f"{kind}.overdue.before")
    work = lease.take(parts.db, operation_id, parts.name, parts.config.operations.lease)
    if work is None:
        return
    message = _overdue(parts, work)
    _log.warning("operation_overdue", operation=work.id, server=work.server_id, error=message)
    parts.faults.reach(f"{kind}.overdue.after")
    try:
        if work.kind == "delete" and not _host_lives(parts, work):
            delete.finish(parts, work)
            return
        parts.faults.reach(f"{kind}.end_in_error.before")
        if work.kind == "build":
            _end_build(parts, work, message)
        elif work.kind in interfaces.KINDS:
            with parts.db.write() as conn:
                interfaces.end(conn, parts, work, message)
        elif work.kind in server_volume_ends.KINDS:
            with parts.db.write() as conn:
                server_volume_ends.end(conn, parts, work, message)
        elif work.kind in volumes.KINDS:
            volumes.end_in_error(parts, work, message)
        else:
            with parts.db.write() as conn:
                actions.end_in_error(conn, parts, work, message)
    except KilonovaError as error:
        _log.warning("overdue_operation_stays", operation=work.id, error=error.message)


def _end_build(parts: Parts, work: Row, message: str) -> None:
    """With its ports, in one transaction. If those cannot be freed now, they are with the server's delete: a
    deadline does not wait for it. The details say where it was."""
    details = None if work.host is None else {"host": work.host, "up": _host_lives(parts, work)}
    try:
        with parts.db.write() as conn:
            lease.kept(conn, work)
            parts.network.deallocate_for_instance(work.server_id)
            server_volume_ends.release_all(conn, parts, work.server_id)
            build.end_in_error(conn, work, message, details)
    except (StaleEpoch, RolledBack):
        raise
    except KilonovaError as error:
        _log.warning("ports_stay", server=work.server_id, error=error.message)
        with parts.db.write() as conn:
            build.end_in_error(conn, work, message, details)


def _overdue(parts: Parts, work: Row) -> str:
    with parts.db.read() as conn:
        journal = operations.steps_of(conn, [work.id])
    last = f"the last step was {journal[-1].name}" if journal else "no step had begun"
    if work.deadline > now():
        return f"The {work.kind} was ended: its host was forced down, and {last}."
    why = f"; it said: {work.message}" if work.message else ""
    if work.host is not None and work.kind not in volumes.KINDS and not _host_lives(parts, work):
        why += "; its host does not answer"
    return f"The {work.kind} did not end within {_span(work.deadline - work.created_at)}: {last}{why}."


def _span(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.3g} seconds"


def _host_lives(parts: Parts, work: Row) -> bool:
    if work.host is None:
        return False
    with parts.db.read() as conn:
        return hosts.is_up(conn, work.host, parts.config.compute.service_down_time)


def _free_ports(parts: Parts, server_id: str) -> None:
    """What cannot be freed now is freed with the server's delete."""
    try:
        parts.network.deallocate_for_instance(server_id)
    except KilonovaError as error:
        _log.warning("ports_stay", server=server_id, error=error.message)


def _repair(parts: Parts, server_id: str, before: float) -> None:
    """A server in a transitional state with no open operation is a bug of ours: say so, and end it.

    What was being built has no place any more; what had been built keeps it.
    """
    _log.error("server_in_limbo", server=server_id)
    fault = {
        "code": 500,
        "message": "The server was in a transitional state that no operation explains.",
        "details": None,
        "created": now(),
    }
    values: dict[str, Any] = {"vm_state": VmState.ERROR, "task_state": None, "fault": fault}
    with parts.db.write() as conn:
        if server_id not in servers.in_limbo(conn, before, for_update=True):
            return
        building = servers.state(conn, server_id).vm_state == VmState.BUILDING
        if building:
            claims.release(conn, server_id)
            values |= {"host": None, "vifs": [], "power_state": PowerState.NOSTATE}
        servers.change(conn, server_id, **values)
    if building:
        _free_ports(parts, server_id)
        server_volume_ends.release_if_possible(parts, server_id)
