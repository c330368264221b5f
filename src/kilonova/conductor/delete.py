"""delete_instance: the host removes the guest, then the records go: ports, volumes, claim, quota, in
that order.

A server without a host, or on one that is down, is deleted here; the host removes what it still has when it
comes back and finds no record.
"""

from __future__ import annotations

import sqlalchemy as sa

from kilonova import log
from kilonova.conductor import server_volume_ends, shelve
from kilonova.conductor.actions import hand_over
from kilonova.conductor.parts import Parts
from kilonova.domain.errors import KilonovaError, StaleEpoch
from kilonova.domain.messages import PerformOperation
from kilonova.engine import lease
from kilonova.store import claims, hosts, operations, servers
from kilonova.store.database import Row
from kilonova.store.repeat import repeated

_log = log.get("conductor")


def delete_instance(parts: Parts, message: PerformOperation) -> None:
    """Bring one delete a step further: to its host, or to its end."""
    work, up = _take(parts, message.operation_id)
    if work is None:
        return
    with log.bound(operation=work.id, server=work.server_id):
        try:
            if up:
                hand_over(parts, work, "delete_instance")
            else:
                finish(parts, work)
        except StaleEpoch:
            _log.info("delete_moved_on")
        except KilonovaError as error:
            # Nothing is lost: the sweeper tries again soon, until the deadline.
            _log.warning("delete_failed", error=error.message)
            with parts.db.write() as conn:
                lease.postpone(conn, work, error.message)


@repeated
def _take(parts: Parts, operation_id: str) -> tuple[Row | None, bool]:
    """The operation, if it is ours now, and whether its host lives, in one transaction."""
    with parts.db.write() as conn:
        work = lease.take(parts.db, operation_id, parts.name, parts.config.operations.lease)
        if work is None or work.host is None:
            return work, False
        return work, hosts.is_up(conn, work.host, parts.silence)


@repeated
def finish(parts: Parts, work: Row) -> None:
    """Nothing of the server is on a host any more."""
    parts.faults.reach("delete.finish.before")
    with parts.db.write() as conn:
        finish_records(conn, parts, work)
    parts.faults.reach("delete.finish.after")


def finish_records(conn: sa.Connection, parts: Parts, work: Row) -> None:
    """One transaction, which only who has the delete can commit: the operation, the ports, all the rest."""
    lease.close(conn, work, operations.DONE)
    parts.network.deallocate_for_instance(work.server_id)
    server_volume_ends.release_all(conn, parts, work.server_id)
    claims.release(conn, work.server_id)
    shelve.forget_image(conn, work.server_id)
    servers.mark_deleted(conn, work.server_id)
