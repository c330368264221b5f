"""Servers that boot from a volume: what their hosts ask of the volume service, and wait for."""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.conductor.parts import Parts
from kilonova.domain.errors import BuildAborted
from kilonova.domain.messages import BlockDevices, OperationRef
from kilonova.engine import lease
from kilonova.store import operations
from kilonova.store.database import Row


def await_snapshots(parts: Parts, message: OperationRef) -> BlockDevices:
    """Which of a createImage's snapshots are still being made. BuildAborted: one cannot be."""
    with parts.db.write() as conn:
        payload = _held(conn, message).payload
    ready = parts.volumes.snapshots_ready(payload.get("snapshots", ()))
    if ready.failed:
        raise BuildAborted(" ".join(ready.failed.values()))
    return BlockDevices(pending=ready.pending)


def _held(conn: sa.Connection, message: OperationRef) -> Row:
    """The operation, with its payload, if it is the host's that asks."""
    work = lease.held(conn, message.operation_id, message.epoch, operations.agent(message.host))
    found = operations.get(conn, work.id)
    assert found is not None
    return found
