"""The query string of GET /servers: what each filter selects.

What Nova filters by regular expression is filtered so here. Who may use which filter: server_filters.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from kilonova.api.compute import inputs, policy, queries, server_filters, server_sort
from kilonova.api.compute.addresses import all_ips
from kilonova.api.compute.times import query_time
from kilonova.api.http import Request
from kilonova.domain.actions import states_of_status
from kilonova.domain.errors import BadRequest, Forbidden
from kilonova.domain.servers import VmState
from kilonova.store import regexp
from kilonova.store.server_lists import ServerQuery, States

_EXACT = {
    "image": "image_id",
    "image_ref": "image_id",
    "flavor": "flavor_id",
    "host": "host",
    "user_id": "user_id",
    "uuid": "id",
    "vm_state": "vm_state",
    "task_state": "task_state",
    "reservation_id": "reservation_id",
}
_PATTERNS = {
    "name": "name",
    "display_name": "name",
    "description": "description",
    "display_description": "description",
    "hostname": "hostname",
    "key_name": "key_name",
    "availability_zone": "availability_zone",
    "locked_by": "locked_by",
    "access_ip_v4": "access_ip_v4",
    "access_ip_v6": "access_ip_v6",
}
_TIMES = ("created_at", "launched_at", "terminated_at")
_NUMBERS = ("power_state", "launch_index")
_FLAGS = ("config_drive", "auto_disk_config")
_NOT_KEPT = ("kernel_id", "ramdisk_id", "root_device_name")

_STATUSES = frozenset(
    [
        "ACTIVE",
        "BUILD",
        "DELETED",
        "ERROR",
        "HARD_REBOOT",
        "MIGRATING",
        "PASSWORD",
        "PAUSED",
        "REBOOT",
        "REBUILD",
        "RESCUE",
        "RESIZE",
        "REVERT_RESIZE",
        "SHELVED",
        "SHELVED_OFFLOADED",
        "SHUTOFF",
        "SOFT_DELETED",
        "SUSPENDED",
        "VERIFY_RESIZE",
    ]
)
_MOST_TAGS = 50


def parse(request: Request) -> ServerQuery | None:
    """What the request asks for; None: nothing can match. BadRequest, Forbidden."""
    names = server_filters.usable(request)
    owner = _owner(request, names)
    states = _states(request) if "status" in names else None
    if states is not None and not states:
        return None
    deleted = _deleted(request, names, states)
    if "soft_deleted" in names and inputs.boolean("soft_deleted", request.query("soft_deleted") or "1"):
        return None
    if "progress" in names and _number(request, "progress") != 0:
        return None
    return ServerQuery(
        equal=owner | _equal(request, names),
        among=_among(request, names),
        matching=_matching(request, names),
        in_second={name: _second(request, name) for name in _TIMES if name in names},
        states=states,
        locked=inputs.boolean("locked", request.query("locked") or "1") if "locked" in names else None,
        deleted=deleted,
        changed_since=query_time(request, "changes-since"),
        changed_before=_changed_before(request) if "changes-before" in names else None,
        hypervisor_hostname=request.query("node") if "node" in names else None,
        tags=_tags(request, names, "tags"),
        tags_any=_tags(request, names, "tags-any"),
        not_tags=_tags(request, names, "not-tags"),
        not_tags_any=_tags(request, names, "not-tags-any"),
        addresses=_addresses(request, names),
        sort=server_sort.parse(request),
        marker=queries.marker(request),
        limit=queries.limit(request),
    )


def _owner(request: Request, names: set[str]) -> dict[str, Any]:
    """Whose servers: the project's, or with ``all_tenants`` anybody's."""
    context = request.context
    if "all_tenants" in names and inputs.boolean("all_tenants", request.query("all_tenants") or "1"):
        policy.require_admin(context, "servers:index:get_all_tenants")
        asked = [request.query(name) for name in ("project_id", "tenant_id") if name in names]
        return {"project_id": asked[0]} if asked else {}
    return {"project_id": context.project_id} if context.project_id else {"user_id": context.user_id}


def _states(request: Request) -> list[States]:
    """None of the statuses is one: 400 since 2.38, before it an empty list."""
    asked = [value.upper() for value in request.query_all("status")]
    if not _STATUSES.intersection(asked) and request.at_least(2, 38):
        raise BadRequest("Invalid status value")
    return [state for status in asked for state in states_of_status(status)]


def _deleted(request: Request, names: set[str], states: list[States] | None) -> bool | None:
    """Whether deleted servers are asked for; None: they come along, as in lists of changes."""
    if states is not None and {vm_state for vm_state, _ in states} == {VmState.DELETED}:
        if not request.context.is_admin:
            raise Forbidden("Only administrators may list deleted instances")
        return True
    if "deleted" in names:
        value = request.query("deleted") or ""
        return value.strip().lower() in {"1", "t", "true", "on", "y", "yes"}
    return None if {"changes-since", "changes-before"} & names else False


def _equal(request: Request, names: set[str]) -> dict[str, Any]:
    numbers: dict[str, Any] = {name: _number(request, name) for name in _NUMBERS if name in names}
    flags = {name: _flag(request, name) for name in _FLAGS if name in names}
    for name in _NOT_KEPT:
        if name in names:
            raise BadRequest(f"Filtering by {name} is not available here")
    return numbers | flags


def _among(request: Request, names: set[str]) -> dict[str, list[str]]:
    return {_EXACT[name]: request.query_all(name) for name in _EXACT if name in names}


def _matching(request: Request, names: set[str]) -> dict[str, str]:
    return {_PATTERNS[name]: queries.pattern(request, name) or "" for name in _PATTERNS if name in names}


def _flag(request: Request, name: str) -> bool:
    """A yes or no; an empty value is no, as the API shows it."""
    value = request.query(name)
    return inputs.boolean(name, value) if value else False


def _number(request: Request, name: str) -> int:
    value = request.query(name) or ""
    if not re.fullmatch(r"[0-9]{1,9}", value):
        raise BadRequest(f"Invalid input for query parameters {name}. Value: {value}. It must be a number")
    return int(value)


def _second(request: Request, name: str) -> float:
    return (query_time(request, name) or 0.0) // 1


def _changed_before(request: Request) -> float | None:
    before, since = query_time(request, "changes-before"), query_time(request, "changes-since")
    if before is not None and since is not None and before < since:
        raise BadRequest("The value of changes-since must be less than or equal to changes-before.")
    return before


def _tags(request: Request, names: set[str], name: str) -> frozenset[str]:
    if name not in names:
        return frozenset()
    tags = frozenset((request.query(name) or "").split(","))
    if len(tags) > _MOST_TAGS:
        raise BadRequest(f"Invalid input for query parameters {name}: more than {_MOST_TAGS} tags")
    return tags


def _addresses(request: Request, names: set[str]) -> Callable[[str], bool] | None:
    """One of the server's addresses of that version matches. The same pattern language as for names."""
    wanted = {
        name: pattern
        for name in ("ip", "ip6")
        if name in names and (pattern := queries.pattern(request, name)) is not None
    }
    if not wanted:
        return None

    def fits(vifs: str) -> bool:
        ips = all_ips(vifs)
        return any(
            (":" in ip) == (name == "ip6") and regexp.matches(pattern, ip)
            for name, pattern in wanted.items()
            for ip in ips
        )

    return fits
