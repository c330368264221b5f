"""What the handlers of the identity API share: their state, bodies with unknown attributes, lists, links."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET

from kilonova.api.http import Reply, Request
from kilonova.domain import codec
from kilonova.domain.errors import BadRequest, NotFound
from kilonova.identity.catalog import Catalog
from kilonova.identity.passwords import MAX_LENGTH
from kilonova.identity.service import Identity
from kilonova.store.database import Database

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"\S")]
ShortName = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"\S")]
"""Of domains and projects."""
Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Secret = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_LENGTH)]
_NESTING = 32


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Keystone's resource options: none is served, so an error names whatever is asked for."""


@dataclass(frozen=True, slots=True)
class State:
    identity: Identity
    catalog: Catalog

    @property
    def db(self) -> Database:
        return self.identity.db


def document(request: Request) -> Any:
    """The JSON body. BadRequest also for what no database stores: NUL, and nesting without end."""
    body = request.json(Any)
    _storable(body, _NESTING)
    return body


def _storable(value: Any, depth: int) -> None:
    if depth == 0:
        raise BadRequest("Invalid input: nested too deeply")
    if isinstance(value, str) and "\0" in value:
        raise BadRequest("Invalid input: NUL characters are not allowed")
    if isinstance(value, dict):
        for key, item in value.items():
            _storable(key, depth)
            _storable(item, depth - 1)
    elif isinstance(value, list):
        for item in value:
            _storable(item, depth - 1)


def convert(value: Any, kind: type[T]) -> T:
    try:
        return codec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise BadRequest(f"Invalid input: {error}") from error


def attributes(request: Request, key: str, kind: type[S]) -> tuple[S, dict[str, Any]]:
    """``{"user": {…}}`` as a struct, and the attributes that it does not know: Keystone keeps those."""
    body = document(request)
    given = body.get(key) if isinstance(body, dict) else None
    if not isinstance(given, dict):
        raise BadRequest(f"Invalid input: the body must be an object with the member '{key}'")
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    extra = {name: value for name, value in given.items() if name not in known and name not in _OURS}
    return convert(given, kind), extra


_OURS = ("id", "links")
"""Clients send back what they were shown; these are never the client's to set."""


def changes(update: msgspec.Struct, *names: str) -> dict[str, Any]:
    """The fields that the client sent, among those names."""
    found = {name: getattr(update, name) for name in names}
    return {name: value for name, value in found.items() if value is not UNSET}


def same_or_unset(what: str, given: Any, current: Any) -> None:
    """BadRequest if the client changes what cannot change."""
    if given is not UNSET and given != current:
        raise BadRequest(f"{what} cannot be changed.")


def found(item: T | None, kind: str, ref: str) -> T:
    if item is None:
        raise NotFound(f"Could not find {kind}: {ref}.")
    return item


def flag(request: Request, name: str) -> bool | None:
    """A boolean filter as Keystone reads it: ``0``, ``false``, ``no``, ``off`` are false; None: not asked."""
    value = request.query(name)
    return None if value is None else value.strip().lower() not in ("0", "f", "false", "n", "no", "off")


def chosen(request: Request, name: str) -> bool:
    """A switch: on if it is there (``?effective``), unless it says 0."""
    value = request.query(name)
    return value is not None and value.strip().lower() not in ("0", "false", "none")


def not_served(request: Request, *parameters: str) -> None:
    for name in parameters:
        if chosen(request, name):
            raise BadRequest(f"The query parameter {name} is not served here.")


def href(request: Request, *path: str) -> str:
    return "/".join((request.url, "v3", *path))


def listing(request: Request, key: str, items: Sequence[Any]) -> Reply:
    links = {"self": request.raw.uri, "previous": None, "next": None}
    return Reply(200, {key: items, "links": links})


def home_domain(request: Request, asked: str | None) -> str:
    """The domain a new thing belongs to: the one asked for, else that of the caller's token."""
    context = request.context
    return asked or context.domain_id or context.project_domain_id or context.user_domain_id
