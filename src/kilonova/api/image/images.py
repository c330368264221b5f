"""/v2/images: create, list, show, update, delete; tags; deactivate and reactivate."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from kilonova.api.http import Reply, Request
from kilonova.api.image import patches, queries, views
from kilonova.domain.errors import NotFound
from kilonova.domain.images import Image
from kilonova.image import locations
from kilonova.image.service import Images


def index(images: Images, request: Request) -> Reply:
    """NotFound for ``/v2/images/``: that asks for one image, with an empty id."""
    if request.raw.env["PATH_INFO"].endswith("/"):
        raise NotFound("No image has an empty id")
    query = queries.parse(request)
    page = images.list(request.context, query)
    body: dict[str, Any] = {
        "images": [_view(images, record) for record in page],
        "first": _link(request, None),
        "schema": "/v2/schemas/images",
    }
    if page and len(page) == query.limit:
        body["next"] = _link(request, page[-1].id)
    return Reply(body=body)


def create(images: Images, request: Request) -> Reply:
    record = images.create(request.context, request.json(dict[str, Any]))
    view = _view(images, record)
    return Reply(201, view, {"Location": f"{request.url}{view['self']}"})


def show(images: Images, request: Request, image_id: str) -> Reply:
    return Reply(body=_view(images, images.show(request.context, image_id)))


def tasks(images: Images, request: Request, image_id: str) -> Reply:
    """Those that are done to the image: none, as what is asked is done before the answer."""
    images.show(request.context, image_id)
    return Reply(body={"tasks": []})


def update(images: Images, request: Request, image_id: str) -> Reply:
    changes = patches.parse(request)
    return Reply(body=_view(images, images.update(request.context, image_id, changes)))


def delete(images: Images, request: Request, image_id: str) -> Reply:
    images.delete(request.context, image_id)
    return Reply(204)


def deactivate(images: Images, request: Request, image_id: str) -> Reply:
    images.deactivate(request.context, image_id)
    return Reply(204)


def reactivate(images: Images, request: Request, image_id: str) -> Reply:
    images.reactivate(request.context, image_id)
    return Reply(204)


def add_tag(images: Images, request: Request, image_id: str, tag: str) -> Reply:
    images.add_tag(request.context, image_id, tag)
    return Reply(204)


def remove_tag(images: Images, request: Request, image_id: str, tag: str) -> Reply:
    images.remove_tag(request.context, image_id, tag)
    return Reply(204)


def _view(images: Images, record: Image) -> dict[str, Any]:
    view = views.image(record)
    if len(images.stores.all) > 1 and record.has_data:
        view["stores"] = record.store or "file"
    if images.shows_direct_urls and (location := images.location(record)) is not None:
        view["direct_url"] = locations.to_url(location)
    return view


def _link(request: Request, marker: str | None) -> str:
    """The same list, from its start or after ``marker``."""
    given = [(name, value) for name in request.raw.params for value in request.query_all(name)]
    kept = [(name, value) for name, value in given if name != "marker"]
    if marker is not None:
        kept.append(("marker", marker))
    return "/v2/images" + (f"?{urlencode(kept)}" if kept else "")
