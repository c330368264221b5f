"""lock and unlock: a locked server refuses changes by all but admins.

Who locks a server of its own project locks as its owner; an admin's lock on the server of another project
is the admin's, and only an admin opens it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import sqlalchemy as sa
from msgspec import Meta

from kilonova.api.compute import policy
from kilonova.api.compute import server_fields as fields
from kilonova.api.compute.server_access import find
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request
from kilonova.domain.context import RequestContext
from kilonova.engine import accept
from kilonova.store import servers
from kilonova.store.database import Row


class Lock(msgspec.Struct, forbid_unknown_fields=True):
    """Since 2.73; before, the value is ignored."""

    locked_reason: Annotated[str, Meta(min_length=1, max_length=255)] | None = None


def lock(api: ComputeAPI, request: Request, server_id: str, value: msgspec.Raw) -> Reply:
    reason = None
    if request.at_least(2, 73) and bytes(value) != b"null":
        reason = fields.decoded("lock", value, Lock).locked_reason
    with api.db.write() as conn:
        server = find(conn, request.context, server_id, "os-lock-server:lock", for_update=True)
        owner = _is_owner(request.context, server)
        if server.locked_by is None or not owner:
            _set(conn, request.context, server, "lock", "owner" if owner else "admin", reason)
    return Reply(202)


def unlock(api: ComputeAPI, request: Request, server_id: str, _value: msgspec.Raw) -> Reply:
    with api.db.write() as conn:
        server = find(conn, request.context, server_id, "os-lock-server:unlock", for_update=True)
        if server.locked_by == "admin":
            policy.require_admin(request.context, "os-lock-server:unlock:unlock_override")
        _set(conn, request.context, server, "unlock", None, None)
    return Reply(202)


def _is_owner(context: RequestContext, server: Row) -> bool:
    return bool(server.project_id == context.project_id)


def _set(
    conn: sa.Connection, context: RequestContext, server: Row, action: str, by: str | None, reason: str | None
) -> None:
    servers.change(conn, server.id, locked_by=by, locked_reason=reason)
    accept.record(conn, context, server, action)
