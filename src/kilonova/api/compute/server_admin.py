"""What admins do to a server's records and NICs: os-resetState, which asks no host, and injectNetworkInfo."""

from __future__ import annotations

from functools import partial
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
from kilonova.engine.interfaces import look_again
from kilonova.store import operations, servers
from kilonova.store.database import after_commit

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


def inject_network_info(api: ComputeAPI, request: Request, server_id: str, _value: msgspec.Raw) -> Reply:
    """The host compares the guest's NICs with the record now, and sets them right. Conflict: on none."""
    rule = "os-admin-actions:inject_network_info"
    with api.db.write() as conn:
        server = find(conn, request.context, server_id, rule, for_update=True)
        policy.require_admin(request.context, rule)
        if server.host is None:
            raise Conflict(f"Instance {server_id} is not ready")
        accept.record(conn, request.context, server, "injectNetworkInfo")
        after_commit(conn, partial(look_again, api.bus, server.host, server_id))
    return Reply(202)
