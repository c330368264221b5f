"""Key pairs: /os-keypairs. A user's own; an admin may name another user (2.10)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from kilonova.api.compute import inputs, links, microversions, queries, ssh_keys
from kilonova.api.compute.policy import require_user
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request, Route
from kilonova.domain.clock import iso8601
from kilonova.domain.errors import BadRequest
from kilonova.store import keypairs, quotas
from kilonova.store.database import Row


class NewKeypair(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """``keypair`` of a POST in 2.1. Without a public key, one is made."""

    name: str
    public_key: str | UnsetType = UNSET

    def __post_init__(self) -> None:
        inputs.matching("name", inputs.name("name", self.name), r"[_\- a-zA-Z0-9]+")


class NewKeypair22(NewKeypair, kw_only=True):
    """2.2 adds the type."""

    type: str = "ssh"

    def __post_init__(self) -> None:
        super().__post_init__()
        _ssh_only(self.type)


class NewKeypair210(NewKeypair22, kw_only=True):
    """2.10 adds the user."""

    user_id: str | UnsetType = UNSET


class NewKeypair292(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """2.92 makes no keys any more, and lets names hold ``@`` and ``.``."""

    name: str
    public_key: str
    type: str = "ssh"
    user_id: str | UnsetType = UNSET

    def __post_init__(self) -> None:
        inputs.matching("name", inputs.name("name", self.name), r"[_\-@. a-zA-Z0-9]+")
        _ssh_only(self.type)


class Create(msgspec.Struct, forbid_unknown_fields=True):
    keypair: NewKeypair


class Create22(msgspec.Struct, forbid_unknown_fields=True):
    keypair: NewKeypair22


class Create210(msgspec.Struct, forbid_unknown_fields=True):
    keypair: NewKeypair210


class Create292(msgspec.Struct, forbid_unknown_fields=True):
    keypair: NewKeypair292


_CREATE: Mapping[tuple[int, int], type[Create | Create22 | Create210 | Create292]] = {
    (2, 1): Create,
    (2, 2): Create22,
    (2, 10): Create210,
    (2, 92): Create292,
}


def index(api: ComputeAPI, request: Request) -> Reply:
    paged = request.at_least(2, 35)
    user_id = _user(request, "index", ("limit", "marker") if paged else ())
    with api.db.read() as conn:
        if not paged:
            page = keypairs.listed(conn, user_id)
        else:
            limit = queries.limit(request)
            page = keypairs.listed(conn, user_id, marker=queries.marker(request), limit=limit)
    body: dict[str, Any] = {"keypairs": [{"keypair": _brief(request, row)} for row in page]}
    if paged and page:
        body |= links.page(request, "keypairs", "os-keypairs", page, page[-1].name)
    return Reply(body=body)


def show(api: ComputeAPI, request: Request, name: str) -> Reply:
    user_id = _user(request, "show")
    with api.db.read() as conn:
        row = keypairs.get(conn, user_id, name)
    view = _brief(request, row) | {
        "user_id": row.user_id,
        "id": row.id,
        "created_at": iso8601(row.created_at),
        # A key pair never changes, and is gone when it is deleted; the API has the fields all the same.
        "updated_at": None,
        "deleted": False,
        "deleted_at": None,
    }
    return Reply(body={"keypair": view})


def create(api: ComputeAPI, request: Request) -> Reply:
    new: Any = request.json(microversions.pick(request, _CREATE)).keypair
    user_id = getattr(new, "user_id", UNSET) or request.context.user_id
    require_user(request.context, user_id, "os-keypairs:create")
    with api.db.read() as conn:
        limit = quotas.limits(conn, request.context.project_id or "", api.config.quota)["key_pairs"]
        keypairs.check_quota(conn, user_id, limit)  # before the work of making a key
    key = ssh_keys.imported(new.public_key) if new.public_key is not UNSET else ssh_keys.generate()
    row = {"name": new.name, "public_key": key.public, "fingerprint": key.fingerprint, "user_id": user_id}
    with api.db.write() as conn:
        keypairs.create(conn, limit=limit, **row)
    view = row if not request.at_least(2, 2) else {**row, "type": "ssh"}
    if key.private is not None:
        view = {**view, "private_key": key.private}
    return Reply(201 if request.at_least(2, 2) else 200, {"keypair": view})


def delete(api: ComputeAPI, request: Request, name: str) -> Reply:
    user_id = _user(request, "delete")
    with api.db.write() as conn:
        keypairs.delete(conn, user_id, name)
    return Reply(204 if request.at_least(2, 2) else 202)


def _brief(request: Request, row: Row) -> dict[str, Any]:
    view = {"name": row.name, "public_key": row.public_key, "fingerprint": row.fingerprint}
    return view | {"type": "ssh"} if request.at_least(2, 2) else view


def _user(request: Request, rule: str, known: tuple[str, ...] = ()) -> str:
    """Whose key pairs the request is about; Forbidden if they are not the caller's to touch."""
    queries.check(request, (*known, "user_id"), strict_since=(2, 75))
    asked = request.query("user_id") if request.at_least(2, 10) else None
    user_id = asked or request.context.user_id
    require_user(request.context, user_id, f"os-keypairs:{rule}")
    return user_id


def _ssh_only(kind: str) -> None:
    if kind == "x509":
        raise BadRequest("Keypair data is invalid: x509 certificates are not supported, only ssh keys")
    if kind != "ssh":
        raise ValueError("type must be ssh")


ROUTES = [
    Route("GET", "/os-keypairs", index),
    Route("POST", "/os-keypairs", create, creates=True),
    Route("GET", "/os-keypairs/{name}", show),
    Route("DELETE", "/os-keypairs/{name}", delete),
]
