"""os-resetState: an admin says what state a server is in. Its host is not asked."""

from __future__ import annotations

from typing import Literal

import msgspec

from kilonova.api.compute import policy
from kilonova.api.compute import server_fields as fields
from kilonova.api.compute.server_access import find
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request
from kilonova.domain.actions import (
    ATTACH_INTERFACE,
    ATTACH_VOLUME,
    DETACH_INTERFACE,
    DETACH_VOLUME,
    SWAP_VOLUME,
)
from kilonova.domain.errors import Conflict
from kilonova.domain.servers import VmState
from kilonova.engine import accept
from kilonova.store import operations, servers

_OF_DEVICES = {ATTACH_INTERFACE, DETACH_INTERFACE, ATTACH_VOLUME, DETACH_VOLUME, SWAP_VOLUME}
_NOT_TO_BE_LEFT = frozenset({"build", "delete", "unshelve", *_OF_DEVICES})
"""Operations that would leave a place on a host, a port, a volume, or half a server, if nobody ended them."""


class ResetState(msgspec.Struct, forbid_unknown_fields=True):
    state: Literal["active", "error"]


def reset_state(api: ComputeAPI, request: Request, server_id: str, value: msgspec.Raw) -> Reply:
    """What is being done to the server ends here. Conflict while it is built or deleted."""
    state = VmState(fields.decoded("os-resetState", value, ResetState).state)
    with api.db.write() as conn:
        operations.lock_open(conn, server_id)
        server = find(conn, request.context, server_id, "os-admin-actions:reset_state", for_update=True)
        policy.require_admin(request.context, "os-admin-actions:reset_state")
        doing = operations.open_of_server(conn, server_id)
        if doing is not None and doing.kind in _NOT_TO_BE_LEFT:
            raise Conflict(
                f"Cannot 'os-resetState' instance {server_id} while its {doing.record} is under way"
            )
        accept.supersede(conn, server_id, "The state of the server was reset")
        servers.change(conn, server_id, vm_state=state, task_state=None)
        accept.record(conn, request.context, server, "resetState")
    return Reply(202)
