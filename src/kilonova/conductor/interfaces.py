"""The ends of attach_interface and detach_interface: the server's ports and its record in one transaction.

An attach that failed leaves the server as it was, a detach that failed leaves the NIC; neither puts the
server in ERROR, as in Nova.
"""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa

from kilonova.conductor.parts import Parts
from kilonova.domain.actions import ATTACH_INTERFACE, DETACH_INTERFACE
from kilonova.engine import lease
from kilonova.engine.interfaces import follow, look_again
from kilonova.store import operations
from kilonova.store.database import Row, after_commit

KINDS = frozenset({ATTACH_INTERFACE, DETACH_INTERFACE})


def end(conn: sa.Connection, parts: Parts, work: Row, error: str | None) -> None:
    """Only who has the operation can commit this. ``error`` None: it went well.

    If it did not, the host compares the guest's NICs with the record: it may have done it, or half of it.
    """
    found = operations.get(conn, work.id)
    port_id = found.payload["port_id"] if found is not None else ""
    if error is None:
        lease.close(conn, work, operations.DONE)
    else:
        lease.close(conn, work, operations.FAILED, error)
        after_commit(conn, partial(_compare, parts, work))
    if (work.kind == DETACH_INTERFACE) == (error is None):
        parts.network.detach(work.server_id, port_id)
    elif work.kind == ATTACH_INTERFACE:
        parts.network.port_status([work.server_id], active=True)
    follow(conn, parts.network, work.server_id)


def _compare(parts: Parts, work: Row) -> None:
    parts.faults.reach(f"{work.kind}.end_in_error.after")
    look_again(parts.bus, work.host, work.server_id)
