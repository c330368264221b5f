"""Finding the server that a request is about, for a caller who wants to change it."""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.api.compute import policy
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import Conflict
from kilonova.domain.servers import VmState
from kilonova.store import servers
from kilonova.store.database import Row

_SETTLED = frozenset({VmState.ACTIVE, VmState.PAUSED, VmState.SUSPENDED, VmState.STOPPED})


def find(
    conn: sa.Connection, context: RequestContext, server_id: str, rule: str, for_update: bool = False
) -> Row:
    """The server. NotFound for one of another project, Forbidden for who may only read.

    ``for_update``: nobody else changes it until the transaction ends.
    """
    server = servers.get(conn, server_id, policy.owner_filter(context), for_update)
    policy.require_writer(context, rule)
    return server


def refuse_locked(context: RequestContext, server: Row) -> None:
    """Conflict if the server is locked, unless the caller is an admin."""
    if server.locked_by is not None and not context.is_admin:
        raise Conflict(f"Instance {server.id} is locked")


def refuse_unsettled(server: Row, action: str) -> None:
    """Conflict while a server is being built, is in error or is on its way out."""
    if server.vm_state not in _SETTLED:
        raise Conflict(f"Cannot '{action}' instance {server.id} while it is in vm_state {server.vm_state}")
