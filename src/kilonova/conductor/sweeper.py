"""The sweeper: finds every operation that nobody works on, and every state that nothing explains.

It is what makes a lost message cost time and nothing else (invariants 2 and 3).
"""

from __future__ import annotations

from kilonova import log
from kilonova.conductor import actions, build, delete
from kilonova.conductor.parts import Parts
from kilonova.conductor.reports import METHOD_OF_KIND
from kilonova.domain.clock import now
from kilonova.domain.errors import KilonovaError
from kilonova.domain.messages import PerformOperation
from kilonova.domain.servers import VmState
from kilonova.engine import lease
from kilonova.store import operations, servers
from kilonova.store.database import Row

_log = log.get("sweeper")

_LIMBO_AGE = 10.0
"""Seconds that a transitional state without an operation is left alone: its transaction may be young."""


def sweep(parts: Parts) -> None:
    """One round. Safe from any number of conductors at once: taking an operation decides who does it."""
    with parts.db.read() as conn:
        expired = operations.expired(conn)
        limbo = servers.in_limbo(conn, now() - _LIMBO_AGE)
    for row in expired:
        if row.deadline <= now():
            _end(parts, row.id)
        else:
            _log.info("operation_taken_up_again", operation=row.id, kind=row.kind, host=row.host)
            method = METHOD_OF_KIND.get(row.kind, "perform_action")
            parts.bus.cast("conductor", method, PerformOperation(operation_id=row.id))
    for server_id in limbo:
        _repair(parts, server_id)


def _end(parts: Parts, operation_id: str) -> None:
    """Past its deadline: take it from whoever has it, and end it with a fault that names the last step."""
    with parts.db.write() as conn:
        operations.expire_lease(conn, operation_id)
    work = lease.take(parts.db, operation_id, parts.name, parts.config.operations.lease)
    if work is None:
        return
    message = _overdue(parts, work)
    _log.warning("operation_overdue", operation=work.id, server=work.server_id, error=message)
    try:
        if work.kind == "delete":
            delete.finish(parts, work)
            return
        with parts.db.write() as conn:
            if work.kind == "build":
                build.end_in_error(conn, work, message, None)
            else:
                actions.end_in_error(conn, work, message)
        if work.kind == "build":
            parts.network.deallocate_for_instance(work.server_id)
    except KilonovaError as error:
        _log.warning("overdue_operation_stays", operation=work.id, error=error.message)


def _overdue(parts: Parts, work: Row) -> str:
    with parts.db.read() as conn:
        journal = operations.steps_of(conn, [work.id])
    last = f"the last step was {journal[-1].name}" if journal else "no step had begun"
    minutes = (work.deadline - work.created_at) / 60
    why = f"; it said: {work.message}" if work.message else ""
    return f"The {work.kind} did not end within {minutes:.0f} minutes: {last}{why}."


def _repair(parts: Parts, server_id: str) -> None:
    """A server in a transitional state with no open operation is a bug of ours: say so, and end it."""
    _log.error("server_in_limbo", server=server_id)
    fault = {
        "code": 500,
        "message": "The server was in a transitional state that no operation explains.",
        "details": None,
        "created": now(),
    }
    with parts.db.write() as conn:
        if operations.open_of_server(conn, server_id) is None:
            servers.change(conn, server_id, vm_state=VmState.ERROR, task_state=None, fault=fault)
