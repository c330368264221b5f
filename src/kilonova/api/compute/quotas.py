"""Quotas: /os-quota-sets/{project} and /os-quota-class-sets. One's own to read; an admin's to set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.api.compute import inputs, queries
from kilonova.api.compute.policy import require_admin, require_project
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request, Route
from kilonova.domain.errors import BadRequest, NotFound
from kilonova.store import projects, quotas, usage
from kilonova.store.quotas import EVERY_PROJECT

DEFAULT_CLASS = "default"

_COMPUTE = ("instances", "cores", "ram", "metadata_items", "key_pairs")
_SERVER_GROUPS = ("server_groups", "server_group_members")
_NETWORK = ("fixed_ips", "floating_ips", "security_groups", "security_group_rules")
"""Until 2.35 (2.49 for classes). The network service has its own quotas: nothing is limited here."""
_FILES = ("injected_files", "injected_file_content_bytes", "injected_file_path_bytes")
"""Until 2.56. No file is ever injected: a server takes user data instead."""
ELSEWHERE = dict.fromkeys(_NETWORK, -1) | dict.fromkeys(_FILES, 0)
"""What old microversions show of things that are not limited or not done here, unless an admin set it."""

Limit = int | str


class QuotaSet(msgspec.Struct, forbid_unknown_fields=True):
    quota_set: dict[str, Limit | bool | None]


class QuotaClassSet(msgspec.Struct, forbid_unknown_fields=True):
    quota_class_set: dict[str, Limit | None]


def show(api: ComputeAPI, request: Request, project_id: str) -> Reply:
    """A user of the project is limited by the project alone: ``user_id`` changes nothing that is shown."""
    require_project(request.context, project_id, "os-quota-sets:show")
    queries.check(request, ("user_id",), strict_since=(2, 75))
    with api.db.read() as conn:
        _require_known(conn, project_id)
        limits = all_limits(conn, api, project_id)
    return Reply(body={"quota_set": {"id": project_id, **_only(limits, _resources(request))}})


def detail(api: ComputeAPI, request: Request, project_id: str) -> Reply:
    require_project(request.context, project_id, "os-quota-sets:detail")
    _refuse_users(request)
    with api.db.read() as conn:
        _require_known(conn, project_id)
        limits, used = all_limits(conn, api, project_id), usage.used(conn, project_id)
    # Key pairs are counted by user, metadata by server: no project uses any of those.
    shown = {
        name: {"limit": limits[name], "in_use": used.get(name, 0), "reserved": 0}
        for name in _resources(request)
    }
    return Reply(body={"quota_set": {"id": project_id, **shown}})


def defaults(api: ComputeAPI, request: Request, project_id: str) -> Reply:
    queries.check(request)
    with api.db.read() as conn:
        _require_known(conn, project_id)
        limits = all_limits(conn, api, EVERY_PROJECT)
    return Reply(body={"quota_set": {"id": project_id, **_only(limits, _resources(request))}})


def update(api: ComputeAPI, request: Request, project_id: str) -> Reply:
    require_admin(request.context, "os-quota-sets:update")
    _refuse_users(request)
    asked = dict(request.json(QuotaSet).quota_set)
    force = _force(asked.pop("force", False))
    new = _limits(asked, _resources(request))
    with api.db.write() as conn:
        _require_known(conn, project_id)
        if not force:
            _refuse_below_use(new, usage.used(conn, project_id))
        quotas.change(conn, project_id, new)
        limits = all_limits(conn, api, project_id)
    return Reply(body={"quota_set": _only(limits, _resources(request))})


def delete(api: ComputeAPI, request: Request, project_id: str) -> Reply:
    require_admin(request.context, "os-quota-sets:delete")
    _refuse_users(request)
    with api.db.write() as conn:
        quotas.reset(conn, project_id)
    return Reply(202)


def show_class(api: ComputeAPI, request: Request, quota_class: str) -> Reply:
    require_admin(request.context, "os-quota-class-sets:show")
    queries.check(request)
    _require_default(quota_class)
    with api.db.read() as conn:
        limits = all_limits(conn, api, EVERY_PROJECT)
    return Reply(body={"quota_class_set": {"id": quota_class, **_only(limits, _shown_class(request))}})


def update_class(api: ComputeAPI, request: Request, quota_class: str) -> Reply:
    require_admin(request.context, "os-quota-class-sets:update")
    _require_default(quota_class)
    settable = {*_class_resources(request), *_SERVER_GROUPS}
    new = _limits(request.json(QuotaClassSet).quota_class_set, settable)
    with api.db.write() as conn:
        quotas.change(conn, EVERY_PROJECT, new)
        limits = all_limits(conn, api, EVERY_PROJECT)
    return Reply(body={"quota_class_set": _only(limits, _shown_class(request))})


def all_limits(conn: sa.Connection, api: ComputeAPI, project_id: str) -> dict[str, int]:
    """Every resource that some microversion shows."""
    return ELSEWHERE | quotas.limits(conn, project_id, api.config.quota)


def _resources(request: Request) -> tuple[str, ...]:
    """What a quota set holds."""
    names: tuple[str, ...] = (*_COMPUTE, *_SERVER_GROUPS)
    if not request.at_least(2, 57):
        names += _FILES
    if not request.at_least(2, 36):
        names += _NETWORK
    return names


def _class_resources(request: Request) -> tuple[str, ...]:
    """What a quota class holds: the server groups were forgotten until 2.50, and the networks left there."""
    names: tuple[str, ...] = _COMPUTE
    if not request.at_least(2, 57):
        names += _FILES
    if not request.at_least(2, 50):
        names += _NETWORK
    return names


def _shown_class(request: Request) -> tuple[str, ...]:
    return (*_class_resources(request), *(_SERVER_GROUPS if request.at_least(2, 50) else ()))


def _limits(asked: Mapping[str, Any], settable: Any) -> dict[str, int]:
    """The new limits as numbers. BadRequest for one that does not exist or is no limit."""
    unknown = sorted(set(asked) - set(settable))
    if unknown:
        raise BadRequest(f"Additional properties are not allowed ({', '.join(map(repr, unknown))})")
    if any(value is None or isinstance(value, bool) for value in asked.values()):
        raise BadRequest("Invalid input: a limit must be a number, -1 for none")
    try:
        return {name: inputs.integer(name, value, -1) for name, value in asked.items()}
    except ValueError as error:
        raise BadRequest(f"Invalid input: {error}") from error


def _force(asked: Any) -> bool:
    if not isinstance(asked, bool | str):
        raise BadRequest("Invalid input: force must be a boolean")
    return inputs.boolean("force", asked)


def _refuse_below_use(new: Mapping[str, int], used: Mapping[str, int]) -> None:
    for name, limit in new.items():
        if 0 <= limit < used.get(name, 0):
            raise BadRequest(
                f"Quota limit {limit} for {name} must be greater than or equal to "
                f"already used and reserved {used[name]}."
            )


def _only(limits: Mapping[str, int], names: tuple[str, ...]) -> dict[str, int]:
    return {name: limits[name] for name in names}


def _refuse_users(request: Request) -> None:
    queries.check(request, ("user_id",), strict_since=(2, 75))
    if request.query("user_id"):
        raise BadRequest("Quotas of single users are not supported: quotas are of projects")


def _require_known(conn: sa.Connection, project_id: str) -> None:
    if projects.get(conn, project_id) is None:
        raise BadRequest(f"Project ID {project_id} is not a valid project.")


def _require_default(quota_class: str) -> None:
    if quota_class != DEFAULT_CLASS:
        raise NotFound(f"Quota class {quota_class} could not be found. There is only '{DEFAULT_CLASS}'.")


ROUTES = [
    Route("GET", "/os-quota-sets/{project_id}", show),
    Route("PUT", "/os-quota-sets/{project_id}", update),
    Route("DELETE", "/os-quota-sets/{project_id}", delete),
    Route("GET", "/os-quota-sets/{project_id}/detail", detail),
    Route("GET", "/os-quota-sets/{project_id}/defaults", defaults),
    Route("GET", "/os-quota-class-sets/{quota_class}", show_class),
    Route("PUT", "/os-quota-class-sets/{quota_class}", update_class),
]
