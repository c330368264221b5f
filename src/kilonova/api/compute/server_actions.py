"""POST /servers/{id}/action: one key names the action, its value says how.

Actions that begin an operation go to engine.accept; those that the API does by itself are in server_lock.py
and server_admin.py. What Nova's API has and this deployment has not is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from kilonova.api.compute import (
    fixed_ips,
    server_admin,
    server_images,
    server_lock,
    server_rebuild,
    server_rescue,
    server_security_groups,
    server_shelve,
)
from kilonova.api.compute import server_fields as fields
from kilonova.api.compute.server_access import find
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request, Route
from kilonova.domain import hosts
from kilonova.domain.errors import BadRequest, Conflict, Unavailable
from kilonova.domain.messages import ConsoleOutput, Text
from kilonova.engine import accept

Perform = Callable[[ComputeAPI, Request, str, msgspec.Raw], Reply]
"""(state, request, server id, the action's value) → the answer."""

_CONSOLE_TIMEOUT = 30.0
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f]")


class Reboot(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["HARD", "Hard", "hard", "SOFT", "Soft", "soft"]


class Console(msgspec.Struct, forbid_unknown_fields=True):
    length: int | str | None = None

    def __post_init__(self) -> None:
        if self.length is not None:
            self.length = fields.integer("length", self.length, -1)


def perform(api: ComputeAPI, request: Request, server_id: str) -> Reply:
    body = request.json(dict[str, msgspec.Raw])
    if len(body) != 1:
        raise BadRequest("Malformed request body: it names exactly one action")
    ((name, value),) = body.items()
    action = ACTIONS.get(name)
    if action is not None:
        return action(api, request, server_id, value)
    since = _ELSEWHERE.get(name)
    if since is None or request.version < since:
        raise BadRequest(f"There is no such action: {name}")
    with api.db.read() as conn:
        find(conn, request.context, server_id, f"servers:{name}")
    raise BadRequest(f"The action {name} is not available here")


def _operation(action: str, rule: str) -> Perform:
    """An action without parameters; its value is ignored, as in Nova."""

    def begin(api: ComputeAPI, request: Request, server_id: str, _value: msgspec.Raw) -> Reply:
        return _begin(api, request, server_id, action, rule)

    return begin


def _reboot(api: ComputeAPI, request: Request, server_id: str, value: msgspec.Raw) -> Reply:
    kind = fields.decoded("reboot", value, Reboot).type.lower()
    return _begin(api, request, server_id, f"reboot_{kind}", "servers:reboot")


def _begin(api: ComputeAPI, request: Request, server_id: str, action: str, rule: str) -> Reply:
    with api.db.read() as conn:
        find(conn, request.context, server_id, rule)
    accept.act(api.db, api.bus, api.config, request.context, server_id, action, faults=api.faults)
    return Reply(202)


def _force_delete(api: ComputeAPI, request: Request, server_id: str, _value: msgspec.Raw) -> Reply:
    with api.db.read() as conn:
        find(conn, request.context, server_id, "os-deferred-delete:force")
    accept.delete_server(api.db, api.bus, api.config, request.context, server_id, api.faults)
    return Reply(202)


def _restore(api: ComputeAPI, request: Request, server_id: str, _value: msgspec.Raw) -> Reply:
    """Servers are deleted at once here: none is ever in the state that could be restored."""
    with api.db.read() as conn:
        server = find(conn, request.context, server_id, "os-deferred-delete:restore")
    raise Conflict(f"Cannot 'restore' instance {server_id} while it is in vm_state {server.vm_state}")


def _console_output(api: ComputeAPI, request: Request, server_id: str, value: msgspec.Raw) -> Reply:
    """The last ``length`` lines of the serial console, from the server's host; all without it."""
    length = fields.decoded("os-getConsoleOutput", value, Console).length
    with api.db.read() as conn:
        server = find(conn, request.context, server_id, "os-console-output")
    if server.host is None:
        raise Conflict(f"Instance {server_id} is not ready")
    query = ConsoleOutput(server_id=server_id, length=None if length in (None, -1) else int(length or 0))
    topic = hosts.topic(server.host)
    try:
        found = api.bus.call(topic, "get_console_output", query, Text, timeout=_CONSOLE_TIMEOUT)
    except Unavailable as error:  # its words name the host
        raise Unavailable(f"The host of instance {server_id} does not answer now") from error
    return Reply(body={"output": _UNPRINTABLE.sub("", found.text)})


ACTIONS: Mapping[str, Perform] = {
    "os-start": _operation("start", "servers:start"),
    "os-stop": _operation("stop", "servers:stop"),
    "reboot": _reboot,
    "pause": _operation("pause", "os-pause-server:pause"),
    "unpause": _operation("unpause", "os-pause-server:unpause"),
    "suspend": _operation("suspend", "os-suspend-server:suspend"),
    "resume": _operation("resume", "os-suspend-server:resume"),
    "createImage": server_images.create_image,
    "createBackup": server_images.create_backup,
    "rebuild": server_rebuild.rebuild,
    "rescue": server_rescue.rescue,
    "unrescue": _operation("unrescue", "os-unrescue"),
    "shelve": server_shelve.shelve,
    "shelveOffload": server_shelve.offload,
    "unshelve": server_shelve.unshelve,
    "addFixedIp": fixed_ips.add,
    "removeFixedIp": fixed_ips.remove,
    "forceDelete": _force_delete,
    "restore": _restore,
    "os-getConsoleOutput": _console_output,
    "lock": server_lock.lock,
    "unlock": server_lock.unlock,
    "os-resetState": server_admin.reset_state,
    "injectNetworkInfo": server_admin.inject_network_info,
    "addSecurityGroup": server_security_groups.add,
    "removeSecurityGroup": server_security_groups.remove,
}

_ELSEWHERE: dict[str, Any] = {
    **dict.fromkeys(
        (
            "changePassword",
            "confirmResize",
            "evacuate",
            "migrate",
            "os-migrateLive",
            "resize",
            "revertResize",
        ),
        (2, 1),
    ),
    "trigger_crash_dump": (2, 17),
}
"""Actions of Nova's that are not there, and since when Nova has them."""

ROUTES = [Route("POST", "/servers/{server_id}/action", perform)]
