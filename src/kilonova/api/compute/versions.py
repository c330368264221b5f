"""The version documents, which clients read first: GET /compute and GET /compute/v2.1. No token needed."""

from __future__ import annotations

from typing import Any

from kilonova.api.compute import microversions, queries
from kilonova.api.http import Reply, Request, Route
from kilonova.api.microversions import text
from kilonova.domain.errors import NotFound

ID = "v2.1"


def versions(_api: Any, request: Request) -> Reply:
    """GET /compute: the APIs under this root. There is one."""
    summary = _summary(f"{request.url}/{ID}/")
    return Reply(body={"versions": [summary]})


def version(_api: Any, request: Request) -> Reply:
    """GET /compute/v2.1."""
    return Reply(body={"version": _document(request)})


def show(_api: Any, request: Request, version_id: str) -> Reply:
    """GET /compute/v2.1/versions/v2.1"""
    queries.check(request)
    if version_id != ID:
        raise NotFound("The resource could not be found.")
    return Reply(body={"version": _document(request)})


def _summary(href: str) -> dict[str, Any]:
    return {
        "id": ID,
        "status": "CURRENT",
        "version": text(microversions.MAXIMUM),
        "min_version": text(microversions.MINIMUM),
        # When v2.1 came to be; the same in every Nova.
        "updated": "2013-07-23T11:33:21Z",
        "links": [{"rel": "self", "href": href}],
    }


def _document(request: Request) -> dict[str, Any]:
    document = _summary(f"{request.url}/")
    document["links"].append(
        {"rel": "describedby", "type": "text/html", "href": "http://docs.openstack.org/"}
    )
    document["media-types"] = [
        {"base": "application/json", "type": "application/vnd.openstack.compute+json;version=2.1"}
    ]
    return document


ROUTES = [
    Route("GET", "/", version, public=True),
    Route("GET", "/versions/{version_id}", show),
]
