"""Flavors: /flavors. Anyone lists and shows what it may use; an admin creates, describes and deletes."""

from __future__ import annotations

import re
import uuid
from typing import Any

from kilonova.api.compute import flavor_bodies, links, microversions, queries
from kilonova.api.compute.policy import owner_filter, require_admin
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request, Route
from kilonova.domain.errors import BadRequest
from kilonova.domain.servers import Flavor
from kilonova.store import flavors

_FILTERS = ("limit", "marker", "is_public", "minRam", "minDisk", "sort_key", "sort_dir")
_NUMBER = re.compile(r"-?[0-9]{1,15}")


def index(api: ComputeAPI, request: Request) -> Reply:
    return Reply(body=_page(api, request, "flavors", brief))


def detail(api: ComputeAPI, request: Request) -> Reply:
    return Reply(body=_page(api, request, "flavors/detail", full))


def show(api: ComputeAPI, request: Request, flavor_id: str) -> Reply:
    queries.check(request)
    with api.db.read() as conn:
        flavor = flavors.get(conn, flavor_id, owner_filter(request.context))
    return Reply(body={"flavor": full(request, flavor)})


def create(api: ComputeAPI, request: Request) -> Reply:
    require_admin(request.context, "os-flavor-manage:create")
    new: Any = request.json(microversions.pick(request, flavor_bodies.CREATE)).flavor
    flavor = Flavor(
        # An empty id, null and none at all ask for one to be made.
        id=new.id or str(uuid.uuid4()),
        name=new.name,
        vcpus=new.vcpus,
        memory_mb=new.ram,
        root_gb=new.disk,
        ephemeral_gb=new.ephemeral,
        swap_mb=new.swap,
        rxtx_factor=getattr(new, "rxtx_factor", 1.0),
        is_public=new.is_public,
        description=getattr(new, "description", None),
    )
    with api.db.write() as conn:
        flavors.create(conn, flavor)
    return Reply(body={"flavor": full(request, flavor)})


def update(api: ComputeAPI, request: Request, flavor_id: str) -> Reply:
    require_admin(request.context, "os-flavor-manage:update")
    new = request.json(flavor_bodies.Update).flavor
    with api.db.write() as conn:
        flavors.change(conn, flavor_id, description=new.description)
        flavor = flavors.get(conn, flavor_id)
    return Reply(body={"flavor": full(request, flavor)})


def delete(api: ComputeAPI, request: Request, flavor_id: str) -> Reply:
    require_admin(request.context, "os-flavor-manage:delete")
    with api.db.write() as conn:
        flavors.delete(conn, flavor_id)
    return Reply(202)


def brief(request: Request, flavor: Flavor) -> dict[str, Any]:
    """A flavor in GET /flavors."""
    view: dict[str, Any] = {
        "id": flavor.id,
        "name": flavor.name,
        "links": links.resource(request, "flavors", flavor.id),
    }
    if request.at_least(2, 55):
        view["description"] = flavor.description
    return view


def full(request: Request, flavor: Flavor) -> dict[str, Any]:
    """A flavor in every other answer."""
    view = brief(request, flavor) | {
        "ram": flavor.memory_mb,
        "disk": flavor.root_gb,
        "swap": flavor.swap_mb or (0 if request.at_least(2, 75) else ""),
        "OS-FLV-EXT-DATA:ephemeral": flavor.ephemeral_gb,
        "vcpus": flavor.vcpus,
        "os-flavor-access:is_public": flavor.is_public,
    }
    if not request.at_least(2, 102):
        view["OS-FLV-DISABLED:disabled"] = flavor.disabled
        view["rxtx_factor"] = flavor.rxtx_factor
    if request.at_least(2, 61):
        view["extra_specs"] = flavor.extra_specs
    return view


def _page(api: ComputeAPI, request: Request, path: str, view: Any) -> dict[str, Any]:
    """The asked page of the flavors that the caller may see."""
    by_name = request.at_least(2, 102)
    queries.check(request, (*_FILTERS, "name") if by_name else _FILTERS, strict_since=(2, 75))
    sort_keys = flavors.SORT_KEYS.keys() - ({"rxtx_factor"} if by_name else set())
    context = request.context
    with api.db.read() as conn:
        page = flavors.listed(
            conn,
            project_id=context.project_id,
            is_public=_is_public(request) if context.is_admin else True,
            disabled=None if context.is_admin else False,
            min_memory_mb=_minimum(request, "minRam"),
            min_root_gb=_minimum(request, "minDisk"),
            name=queries.pattern(request, "name") if by_name else None,
            sort_key=queries.choice(request, "sort_key", sort_keys, "flavorid"),
            descending=queries.choice(request, "sort_dir", ("asc", "desc"), "asc") == "desc",
            marker=queries.marker(request),
            limit=queries.limit(request),
        )
    shown = [view(request, flavor) for flavor in page]
    return {"flavors": shown} | links.page(request, "flavors", path, page, page[-1].id if page else "")


def _is_public(request: Request) -> bool | None:
    """An admin's filter: ``none`` is public and private ones."""
    asked = request.query("is_public")
    if asked is None:
        return True
    word = asked.lower()
    if word == "none":
        return None
    if word in {"1", "t", "true", "on", "y", "yes"}:
        return True
    if word in {"0", "f", "false", "off", "n", "no"}:
        return False
    raise BadRequest(f"Invalid is_public filter [{asked}]")


def _minimum(request: Request, name: str) -> int | None:
    value = request.query(name)
    if value is None:
        return None
    if not _NUMBER.fullmatch(value):
        raise BadRequest(f"Invalid {name} filter [{value}]")
    return int(value)


ROUTES = [
    Route("GET", "/flavors", index),
    Route("POST", "/flavors", create, creates=True),
    Route("GET", "/flavors/detail", detail),
    Route("GET", "/flavors/{flavor_id}", show),
    Route("PUT", "/flavors/{flavor_id}", update, since=(2, 55)),
    Route("DELETE", "/flavors/{flavor_id}", delete),
]
