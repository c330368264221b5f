"""Extra specs of flavors: /flavors/{id}/os-extra_specs. Anyone reads them; an admin changes them."""

from __future__ import annotations

from typing import Annotated

import msgspec

from kilonova.api.compute import extra_specs, inputs, queries
from kilonova.api.compute.policy import owner_filter, require_admin
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request, Route
from kilonova.domain.errors import BadRequest, NotFound
from kilonova.store import flavors

Key = Annotated[str, msgspec.Meta(pattern=r"^[a-zA-Z0-9_:. -]{1,255}\Z")]
Value = Annotated[str, msgspec.Meta(max_length=255)] | int | float
Specs = dict[Key, Value]


class Create(msgspec.Struct, forbid_unknown_fields=True):
    extra_specs: Specs


def index(api: ComputeAPI, request: Request, flavor_id: str) -> Reply:
    queries.check(request)
    return Reply(body={"extra_specs": _of(api, request, flavor_id)})


def show(api: ComputeAPI, request: Request, flavor_id: str, key: str) -> Reply:
    queries.check(request)
    specs = _of(api, request, flavor_id)
    if key not in specs:
        raise _no_key(flavor_id, key)
    return Reply(body={key: specs[key]})


def create(api: ComputeAPI, request: Request, flavor_id: str) -> Reply:
    require_admin(request.context, "os-flavor-extra-specs:create")
    new = request.json(Create).extra_specs
    _add(api, request, flavor_id, new)
    return Reply(body={"extra_specs": new})


def update(api: ComputeAPI, request: Request, flavor_id: str, key: str) -> Reply:
    require_admin(request.context, "os-flavor-extra-specs:update")
    new = request.json(Specs)
    if set(new) != {key}:
        raise BadRequest("Request body and URI mismatch")
    _add(api, request, flavor_id, new)
    return Reply(body=new)


def delete(api: ComputeAPI, request: Request, flavor_id: str, key: str) -> Reply:
    require_admin(request.context, "os-flavor-extra-specs:delete")
    with api.db.write() as conn:
        specs = dict(flavors.get(conn, flavor_id, for_update=True).extra_specs)
        if specs.pop(key, None) is None:
            raise _no_key(flavor_id, key)
        flavors.change(conn, flavor_id, extra_specs=specs)
    return Reply(200)


def _of(api: ComputeAPI, request: Request, flavor_id: str) -> dict[str, str]:
    with api.db.read() as conn:
        return flavors.get(conn, flavor_id, owner_filter(request.context)).extra_specs


def _add(api: ComputeAPI, request: Request, flavor_id: str, new: Specs) -> None:
    """Merge these into the flavor's specs; kept as strings whatever was sent."""
    texts = {key: str(value) for key, value in new.items()}
    if not all(inputs.printable(value) for value in texts.values()):
        raise BadRequest("Invalid input: an extra spec's value must be printable characters")
    if request.at_least(2, 86):
        extra_specs.validate(texts)
    with api.db.write() as conn:
        old = flavors.get(conn, flavor_id, for_update=True).extra_specs
        flavors.change(conn, flavor_id, extra_specs=old | texts)


def _no_key(flavor_id: str, key: str) -> NotFound:
    return NotFound(f"Flavor {flavor_id} has no extra specs with key {key}.")


ROUTES = [
    Route("GET", "/flavors/{flavor_id}/os-extra_specs", index),
    Route("POST", "/flavors/{flavor_id}/os-extra_specs", create),
    Route("GET", "/flavors/{flavor_id}/os-extra_specs/{key}", show),
    Route("PUT", "/flavors/{flavor_id}/os-extra_specs/{key}", update),
    Route("DELETE", "/flavors/{flavor_id}/os-extra_specs/{key}", delete),
]
