"""The Image API v2 (Glance's), under /image: its table of URLs."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from kilonova.api.http import Request, Route, Service
from kilonova.api.image import data, images, info, locations, members, schemas, versions
from kilonova.domain.errors import KilonovaError
from kilonova.image.service import Images

_IMAGE = "/v2/images/{image_id}"
_MEMBER = f"{_IMAGE}/members/{{member_id}}"

ROUTES = [
    Route("GET", "", versions.choices, public=True),
    Route("GET", "/versions", versions.listed, public=True),
    Route("GET", "/v2/images", images.index),
    Route("POST", "/v2/images", images.create, creates=True),
    Route("GET", _IMAGE, images.show),
    Route("PATCH", _IMAGE, images.update),
    Route("DELETE", _IMAGE, images.delete),
    Route("POST", f"{_IMAGE}/actions/deactivate", images.deactivate),
    Route("POST", f"{_IMAGE}/actions/reactivate", images.reactivate),
    Route("GET", f"{_IMAGE}/tasks", images.tasks),
    Route("PUT", f"{_IMAGE}/tags/{{tag}}", images.add_tag),
    Route("DELETE", f"{_IMAGE}/tags/{{tag}}", images.remove_tag),
    Route("PUT", f"{_IMAGE}/file", data.upload, streamed=True),
    Route("GET", f"{_IMAGE}/file", data.download),
    Route("POST", f"{_IMAGE}/locations", locations.create),
    Route("GET", f"{_IMAGE}/members", members.index),
    Route("POST", f"{_IMAGE}/members", members.create, creates=True),
    Route("GET", _MEMBER, members.show),
    Route("PUT", _MEMBER, members.update),
    Route("DELETE", _MEMBER, members.delete),
    Route("GET", "/v2/schemas/{name}", schemas.show),
    Route("GET", "/v2/info/import", info.import_methods),
    Route("GET", "/v2/info/stores", info.stores),
]


def service(images: Images) -> Service:
    return Service(name="image", prefix="/image", routes=ROUTES, state=images, fault=_fault)


def _fault(_request: Request, status: int, message: str, _error: KilonovaError | None) -> Mapping[str, Any]:
    return {"code": status, "title": HTTPStatus(status).phrase, "message": message}
