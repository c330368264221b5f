"""Quotas: /os-quota-sets of projects, /os-quota-class-sets of everybody, /limits of the caller."""

from __future__ import annotations

from typing import Any

from kilonova.api.http import Reply, Request, Route
from kilonova.api.volume import inputs, policy
from kilonova.api.volume.state import VolumeAPI
from kilonova.domain.errors import BadRequest
from kilonova.store import volume_quotas as store
from kilonova.store import volume_types
from kilonova.volume.builtin import quotas as rules


def show(api: VolumeAPI, request: Request, owner_id: str) -> Reply:
    policy.require_project(request.context, owner_id, "volume_extension:quotas:show")
    with api.db.read() as conn:
        limits = _every(api, conn, rules.limits(conn, api.config, owner_id))
        if not inputs.boolean("usage", request.query("usage") or ""):
            return Reply(body={"quota_set": {"id": owner_id, **limits}})
        used = store.used(conn, owner_id)
    views = {
        # Nothing is ever reserved: what is made is counted in the transaction that makes it.
        name: {"limit": limit, "in_use": used.get(name, 0), "reserved": 0}
        for name, limit in limits.items()
    }
    return Reply(body={"quota_set": {"id": owner_id, **views}})


def _every(api: VolumeAPI, conn: Any, limits: dict[str, int]) -> dict[str, int]:
    """With those of each type, and of what there never is."""
    found = {
        f"{name}_{kind.name}": -1 for kind in volume_types.every(conn).values() for name in rules.COUNTED
    }
    return found | dict.fromkeys(rules.NEVER, 0) | limits


def defaults(api: VolumeAPI, request: Request, owner_id: str) -> Reply:
    policy.require_project(request.context, owner_id, "volume_extension:quotas:show")
    with api.db.read() as conn:
        limits = _every(api, conn, rules.limits(conn, api.config, store.EVERY_PROJECT))
    return Reply(body={"quota_set": {"id": owner_id, **limits}})


def update(api: VolumeAPI, request: Request, owner_id: str) -> Reply:
    policy.require_admin(request.context, "volume_extension:quotas:update")
    return _update(api, request, owner_id, "quota_set")


def _update(api: VolumeAPI, request: Request, owner_id: str, name: str) -> Reply:
    asked = dict(inputs.envelope(request, name, dict[str, Any]))
    for ignored in ("tenant_id", "skip_validation", "force", "class_name", "id"):
        asked.pop(ignored, None)
    with api.db.write() as conn:
        known = _every(api, conn, rules.defaults(api.config))
        new = {resource: _limit(resource, value, known) for resource, value in asked.items()}
        store.put(conn, owner_id, new)
        limits = _every(api, conn, rules.limits(conn, api.config, owner_id))
    return Reply(body={name: limits})


def _limit(resource: str, value: object, known: dict[str, int]) -> int:
    if resource not in known:
        raise BadRequest(f"Invalid input received: there is no quota of '{resource}'.")
    try:
        number = int(str(value)) if not isinstance(value, bool) else -2
    except ValueError:
        number = -2
    if not -1 <= number <= inputs.MAX_INT:
        raise BadRequest(
            f"Invalid input received: Quota limit '{value}' of {resource} must be -1 (unlimited), 0 or more."
        )
    return number


def delete(api: VolumeAPI, request: Request, owner_id: str) -> Reply:
    policy.require_admin(request.context, "volume_extension:quotas:delete")
    with api.db.write() as conn:
        store.reset(conn, owner_id)
    return Reply(200)


def show_class(api: VolumeAPI, request: Request, class_name: str) -> Reply:
    policy.require_admin(request.context, "volume_extension:quota_classes:get")
    _check_class(class_name)
    with api.db.read() as conn:
        limits = _every(api, conn, rules.limits(conn, api.config, store.EVERY_PROJECT))
    return Reply(body={"quota_class_set": {"id": class_name, **limits}})


def update_class(api: VolumeAPI, request: Request, class_name: str) -> Reply:
    policy.require_admin(request.context, "volume_extension:quota_classes:update")
    _check_class(class_name)
    return _update(api, request, store.EVERY_PROJECT, "quota_class_set")


def _check_class(name: str) -> None:
    if name != "default":
        raise BadRequest(f"Invalid input received: there is one quota class, default, and no '{name}'.")


def limits(api: VolumeAPI, request: Request) -> Reply:
    context = request.context
    project = context.project_id or ""
    if context.is_admin and request.at_least(3, 39):
        project = request.query("project_id") or request.query("tenant_id") or project
    with api.db.read() as conn:
        allowed, used = rules.limits(conn, api.config, project), store.used(conn, project)
    absolute = {
        "maxTotalVolumes": allowed["volumes"],
        "maxTotalVolumeGigabytes": allowed["gigabytes"],
        "maxTotalSnapshots": allowed["snapshots"],
        "maxTotalBackups": 0,
        "maxTotalBackupGigabytes": 0,
        "totalVolumesUsed": used["volumes"],
        "totalGigabytesUsed": used["gigabytes"],
        "totalSnapshotsUsed": used["snapshots"],
        "totalBackupsUsed": 0,
        "totalBackupGigabytesUsed": 0,
    }
    return Reply(body={"limits": {"rate": [], "absolute": absolute}})


ROUTES = [
    Route("GET", "/os-quota-sets/{owner_id}", show),
    Route("PUT", "/os-quota-sets/{owner_id}", update),
    Route("DELETE", "/os-quota-sets/{owner_id}", delete),
    Route("GET", "/os-quota-sets/{owner_id}/defaults", defaults),
    Route("GET", "/os-quota-class-sets/{class_name}", show_class),
    Route("PUT", "/os-quota-class-sets/{class_name}", update_class),
    Route("GET", "/limits", limits),
]
