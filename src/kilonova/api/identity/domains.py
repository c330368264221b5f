"""/v3/domains"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from kilonova.api.http import Reply, Request
from kilonova.api.identity.state import (
    Options,
    ShortName,
    State,
    attributes,
    changes,
    flag,
    found,
    href,
    listing,
)
from kilonova.domain.errors import Forbidden
from kilonova.domain.identity import DEFAULT_DOMAIN, Domain
from kilonova.identity.bootstrap import new_id
from kilonova.store import domains


class _Create(msgspec.Struct, frozen=True):
    name: ShortName
    description: str | None = None
    enabled: bool = True
    tags: list[str] = []
    options: Options = Options()


class _Update(msgspec.Struct, frozen=True):
    name: ShortName | UnsetType = UNSET
    description: str | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    tags: list[str] | UnsetType = UNSET
    options: Options = Options()


def view(request: Request, domain: Domain) -> dict[str, Any]:
    return domain.extra | {
        "id": domain.id,
        "name": domain.name,
        "description": domain.description,
        "enabled": domain.enabled,
        "tags": domain.tags,
        "options": {},
        "links": {"self": href(request, "domains", domain.id)},
    }


def index(state: State, request: Request) -> Reply:
    with state.db.read() as conn:
        items = domains.listed(conn, name=request.query("name"), enabled=flag(request, "enabled"))
    return listing(request, "domains", [view(request, item) for item in items])


def create(state: State, request: Request) -> Reply:
    given, extra = attributes(request, "domain", _Create)
    domain = Domain(
        id=new_id(),
        name=given.name,
        description=given.description or "",
        enabled=given.enabled,
        tags=given.tags,
        extra=extra,
    )
    with state.db.write() as conn:
        domains.create(conn, domain)
    return Reply(201, {"domain": view(request, domain)})


def show(state: State, request: Request, domain_id: str) -> Reply:
    with state.db.read() as conn:
        domain = found(domains.get(conn, domain_id), "domain", domain_id)
    return Reply(200, {"domain": view(request, domain)})


def update(state: State, request: Request, domain_id: str) -> Reply:
    given, extra = attributes(request, "domain", _Update)
    with state.db.write() as conn:
        domain = found(domains.get(conn, domain_id, for_update=True), "domain", domain_id)
        new = changes(given, "name", "description", "enabled", "tags")
        if domain_id == DEFAULT_DOMAIN and new.get("enabled") is False:
            raise Forbidden("The default domain cannot be disabled: the administrator lives in it.")
        domains.update(conn, domain_id, new | {"extra": domain.extra | extra})
        domain = found(domains.get(conn, domain_id), "domain", domain_id)
    return Reply(200, {"domain": view(request, domain)})


def delete(state: State, request: Request, domain_id: str) -> Reply:
    with state.db.write() as conn:
        domain = found(domains.get(conn, domain_id), "domain", domain_id)
        if domain.enabled:
            raise Forbidden("Cannot delete a domain that is enabled, please disable it first.")
        domains.delete(conn, domain_id)
    return Reply(204)
