"""perform_action: stop, start, reboot, pause, … of a server: handed to the host that has it."""

from __future__ import annotations

import sqlalchemy as sa

from kilonova import log
from kilonova.conductor.parts import Parts
from kilonova.domain.clock import now
from kilonova.domain.errors import StaleEpoch
from kilonova.domain.hosts import topic
from kilonova.domain.messages import PerformOperation, Work
from kilonova.domain.servers import VmState
from kilonova.engine import lease
from kilonova.store import operations, servers
from kilonova.store.database import Row
from kilonova.store.repeat import repeated

_log = log.get("conductor")


def perform_action(parts: Parts, message: PerformOperation) -> None:
    """Hand an action to its host. The lease and the deadline see to a host that does not answer."""
    work = lease.take(parts.db, message.operation_id, parts.name, parts.config.operations.lease)
    if work is None:
        return
    with log.bound(operation=work.id, server=work.server_id):
        try:
            hand_over(parts, work, "perform_action")
        except StaleEpoch:
            _log.info("action_moved_on")


@repeated
def hand_over(parts: Parts, work: Row, method: str) -> None:
    """The operation is the host's from here; tell the host."""
    parts.faults.reach(f"{work.kind}.hand_over.before")
    with parts.db.write() as conn:
        lease.hand_to_host(conn, work, work.host, parts.config.operations.lease)
        server = servers.for_host(conn, work.server_id)
    parts.faults.reach(f"{work.kind}.hand_over.after")
    parts.bus.cast(
        topic(work.host),
        method,
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
            payload=work.payload,
        ),
    )


def end_in_error(conn: sa.Connection, work: Row, message: str, details: object = None) -> None:
    """An action that failed: the server keeps its place and gets a fault that says what happened."""
    lease.close(conn, work, operations.FAILED, message)
    fault = {"code": 500, "message": message, "details": details, "created": now()}
    servers.change(conn, work.server_id, vm_state=VmState.ERROR, task_state=None, fault=fault)
