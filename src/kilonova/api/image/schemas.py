"""The JSON schemas that the Image API serves of its own resources, made from the table of attributes."""

from __future__ import annotations

from typing import Any

from kilonova.api.http import Reply, Request
from kilonova.domain.errors import NotFound
from kilonova.domain.images import MEMBER_STATUSES
from kilonova.image.attributes import ATTRIBUTES, UUID, Attribute
from kilonova.image.service import Images

Schema = dict[str, Any]


def show(_images: Images, _request: Request, name: str) -> Reply:
    if name not in SCHEMAS:
        raise NotFound(f"No schema named {name}")
    return Reply(body=SCHEMAS[name])


def _property(attribute: Attribute) -> Schema:
    kind = ["null", attribute.kind] if attribute.nullable else attribute.kind
    schema: Schema = {"type": kind, "description": attribute.description}
    if attribute.choices:
        schema["enum"] = [None, *attribute.choices] if attribute.nullable else list(attribute.choices)
    if attribute.read_only:
        schema["readOnly"] = True
    if attribute.pattern:
        schema["pattern"] = attribute.pattern
    if attribute.kind == "array":
        schema["items"] = {"type": "string", "maxLength": attribute.max_length}
    elif attribute.max_length:
        schema["maxLength"] = attribute.max_length
    return schema


def _collection(name: str, of: Schema) -> Schema:
    links = [{"rel": "describedby", "href": "{schema}"}]
    properties = {name: {"type": "array", "items": of}, "schema": {"type": "string"}}
    if name == "images":
        properties |= {"first": {"type": "string"}, "next": {"type": "string"}}
        links = [{"rel": "first", "href": "{first}"}, {"rel": "next", "href": "{next}"}, *links]
    return {"name": name, "properties": properties, "links": links}


_IMAGE: Schema = {
    "name": "image",
    "properties": {name: _property(attribute) for name, attribute in ATTRIBUTES.items()},
    "additionalProperties": {"type": "string"},
    "links": [
        {"rel": "self", "href": "{self}"},
        {"rel": "enclosure", "href": "{file}"},
        {"rel": "describedby", "href": "{schema}"},
    ],
}

_MEMBER: Schema = {
    "name": "member",
    "properties": {
        "member_id": {"type": "string", "description": "The project the image is shared with"},
        "image_id": {"type": "string", "description": "The image's id", "pattern": UUID},
        "status": {
            "type": "string",
            "description": "What the member answered",
            "enum": list(MEMBER_STATUSES),
        },
        "created_at": {"type": "string", "description": "When the project was added"},
        "updated_at": {"type": "string", "description": "When the member last changed"},
        "schema": {"type": "string", "readOnly": True},
    },
}

SCHEMAS = {
    "image": _IMAGE,
    "images": _collection("images", _IMAGE),
    "member": _MEMBER,
    "members": _collection("members", _MEMBER),
}
