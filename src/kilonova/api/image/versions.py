"""The versions of the Image API: what a client reads first, without a token."""

from __future__ import annotations

from typing import Any

from kilonova.api.http import Reply, Request
from kilonova.image.service import Images

CURRENT = "2.7"
"""Hidden images and os_hash_*. Later versions are about several stores, caches and imports."""

SUPPORTED = ("2.6", "2.5", "2.4", "2.3", "2.2", "2.1", "2.0")


def choices(_images: Images, request: Request) -> Reply:
    return Reply(300, _document(request))


def listed(_images: Images, request: Request) -> Reply:
    return Reply(200, _document(request))


def _document(request: Request) -> dict[str, Any]:
    versions = [_version(request, CURRENT, "CURRENT")]
    versions += [_version(request, version, "SUPPORTED") for version in SUPPORTED]
    return {"versions": versions}


def _version(request: Request, version: str, status: str) -> dict[str, Any]:
    links = [{"rel": "self", "href": f"{request.url}/v2/"}]
    return {"id": f"v{version}", "status": status, "links": links}
