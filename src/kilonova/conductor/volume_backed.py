"""Servers that boot from a volume: what their hosts ask of the volume service, and wait for."""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.conductor.parts import Parts
from kilonova.domain import codec
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest, BuildAborted, NotFound
from kilonova.domain.messages import BlockDevices, OperationRef
from kilonova.domain.servers import ImageRef
from kilonova.engine import lease
from kilonova.store import operations
from kilonova.store.database import Row
from kilonova.store.repeat import repeated

SYSTEM = RequestContext(request_id="", user_id="", roles=frozenset({"admin"}))
"""Who looks at volumes of all projects: the conductor itself."""


def await_snapshots(parts: Parts, message: OperationRef) -> BlockDevices:
    """Which of a createImage's snapshots are still being made. BuildAborted: one cannot be."""
    with parts.db.write() as conn:
        payload = _held(conn, message).payload
    ready = parts.volumes.snapshots_ready(payload.get("snapshots", ()))
    if ready.failed:
        raise BuildAborted(" ".join(ready.failed.values()))
    return BlockDevices(pending=ready.pending)


@repeated
def reimage_root(parts: Parts, message: OperationRef) -> BlockDevices:
    """The root volume of a rebuild, whose guest is gone, gets its image: begun once by each owner of the
    rebuild, for the one before may have let a guest write to it. BuildAborted: it cannot be."""
    with parts.db.write() as conn:
        work = _held(conn, message)
        volume_id = str(work.payload["reimage"])
        if work.payload.get("reimaged_in") != work.epoch:
            image = codec.convert(work.payload["image"], ImageRef)
            try:
                parts.volumes.reimage(SYSTEM, volume_id, image)
            except (BadRequest, NotFound) as error:
                raise BuildAborted(error.message) from error
            lease.kept(conn, work, payload={**work.payload, "reimaged_in": work.epoch})
    parts.faults.reach("rebuild.reimage.after")
    ready = parts.volumes.ready([volume_id])
    if ready.failed:
        raise BuildAborted(" ".join(ready.failed.values()))
    return BlockDevices(pending=ready.pending)


def _held(conn: sa.Connection, message: OperationRef) -> Row:
    """The operation, with its payload, if it is the host's that asks."""
    work = lease.held(conn, message.operation_id, message.epoch, operations.agent(message.host))
    found = operations.get(conn, work.id)
    assert found is not None
    return found
