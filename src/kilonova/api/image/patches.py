"""The body of PATCH /v2/images/{id}: a JSON patch, in the two dialects that the Image API has.

v2.1 is RFC 6902's ``{"op": "add", "path": "/name", "value": …}`` with add, replace and remove; v2.0 is an
early draft's ``{"add": "/name", "value": …}``, whose add refuses what is there already.
"""

from __future__ import annotations

import re
from typing import Any

from kilonova.api.http import Request
from kilonova.domain.errors import BadRequest, Forbidden, UnsupportedMedia
from kilonova.image.patch import Change

V21 = "application/openstack-images-v2.1-json-patch"
V20 = "application/openstack-images-v2.0-json-patch"
OPERATIONS = ("add", "remove", "replace")


def parse(request: Request) -> list[Change]:
    """BadRequest says what is wrong with the patch; UnsupportedMedia names the two dialects."""
    kind = (request.raw.content_type or "").split(";")[0].strip()
    if kind not in (V20, V21):
        raise UnsupportedMedia(f"Image PATCH expects Content-Type one of: {V20}, {V21}")
    body = request.json(object, (V21, V20))
    if not isinstance(body, list):
        raise BadRequest("Request body must be a JSON array of operation objects.")
    return [_change(operation, kind == V20) for operation in body]


def _change(operation: Any, draft: bool) -> Change:
    if not isinstance(operation, dict):
        raise BadRequest("Operations must be JSON objects.")
    op, path = _draft(operation) if draft else _rfc(operation)
    name = _name(path)
    if op != "remove" and "value" not in operation:
        raise BadRequest(f'Operation "{op}" requires a member named "value".')
    return Change(op=op, name=name, value=operation.get("value"), strict=draft)


def _rfc(operation: dict[str, Any]) -> tuple[str, Any]:
    op = operation.get("op")
    if op not in OPERATIONS:
        raise BadRequest(
            f"Invalid operation: `{op}`. It must be one of the following: {', '.join(OPERATIONS)}."
        )
    if "path" not in operation:
        raise BadRequest("Unable to find 'path' in JSON Schema change")
    return op, operation["path"]


def _draft(operation: dict[str, Any]) -> tuple[str, Any]:
    named = [op for op in OPERATIONS if op in operation]
    if len(named) != 1:
        raise BadRequest(
            'Operation objects must contain exactly one member named "add", "remove" or "replace".'
        )
    return named[0], operation[named[0]]


def _name(pointer: Any) -> str:
    """The one attribute or property that a JSON pointer (RFC 6901) leads to: images have no deeper ones."""
    if not isinstance(pointer, str) or not pointer.startswith("/"):
        raise BadRequest(f'Pointer `{pointer}` does not start with "/".')
    if re.search(r"~(?![01])", pointer):
        raise BadRequest(f'Pointer `{pointer}` contains "~" not part of a recognized escape sequence.')
    name, *deeper = [
        part.replace("~1", "/").replace("~0", "~").strip() for part in pointer.removeprefix("/").split("/")
    ]
    if name == "locations":
        raise Forbidden("It's not allowed to update locations if locations are invisible.")
    if deeper or not name:
        raise BadRequest(f"Invalid JSON pointer for this resource: '{pointer}'")
    return name
