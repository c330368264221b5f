"""Changes of an image's attributes, as a JSON patch asks for them: all or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from kilonova.domain.context import RequestContext
from kilonova.domain.errors import Conflict, Forbidden
from kilonova.domain.images import Image, ImageStatus
from kilonova.image import access, attributes


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """``op``: add, replace or remove. ``strict`` (the older patch format): add refuses what is there."""

    op: str
    name: str
    value: Any = None
    strict: bool = False


def apply(context: RequestContext, image: Image, changes: Sequence[Change]) -> Image:
    """The image with every change made in order. BadRequest, Forbidden or Conflict say which can't be."""
    for change in changes:
        image = _apply_one(context, image, change)
    attributes.check_limits(image)
    return image


def _apply_one(context: RequestContext, image: Image, change: Change) -> Image:
    attributes.check_writable(change.name, creating=False)
    known = change.name in attributes.ATTRIBUTES
    exists = known or change.name in image.properties
    if change.op == "remove":
        return _remove(image, change.name)
    attributes.check_value(change.name, change.value)
    if change.op == "replace" and not exists:
        raise Conflict(f"Property {change.name} does not exist.")
    if change.op == "add" and exists and change.strict:
        raise Conflict(f"Property {change.name} already present.")
    if not known:
        properties = {**image.properties, change.name: change.value}
        return msgspec.structs.replace(image, properties=properties)
    _check_change(context, image, change)
    value = sorted(set(change.value)) if change.name == "tags" else change.value
    return msgspec.structs.replace(image, **{change.name: value})


def _remove(image: Image, name: str) -> Image:
    if name in attributes.ATTRIBUTES:
        raise Forbidden(f"Property {name} may not be removed.")
    if name not in image.properties:
        raise Conflict(f"Property {name} does not exist.")
    properties = {key: value for key, value in image.properties.items() if key != name}
    return msgspec.structs.replace(image, properties=properties)


def _check_change(context: RequestContext, image: Image, change: Change) -> None:
    if change.name == "owner" and not context.is_admin:
        raise Forbidden("Owner can't be updated by non admin.")
    if change.name == "visibility":
        access.check_visibility(context, change.value)
    if change.name in ("disk_format", "container_format") and image.status != ImageStatus.QUEUED:
        raise Forbidden(f"Attribute {change.name} can be only replaced for a queued image.")
