"""The query of a list's URL, and the links to the pages beside it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from urllib.parse import urlencode

from kilonova.api.http import Request
from kilonova.domain.errors import BadRequest
from kilonova.store.network_lists import Page

MAX_LIMIT = 1000
"""Items of one page (Neutron's pagination_max_limit). The links lead on."""

_MAX_VALUES = 2000
"""Values of all filters of one request."""

_CONTROLS = ("fields", "limit", "marker", "page_reverse", "sort_key", "sort_dir")


def asked(request: Request, admins: Collection[str]) -> Page:
    """``admins``: attributes that only they may filter by."""
    filters = {name: request.query_all(name) for name in request.raw.params if name not in _CONTROLS}
    if sum(map(len, filters.values())) > _MAX_VALUES:
        raise BadRequest(f"Invalid input for filters: more than {_MAX_VALUES} values")
    if not request.context.is_admin and (hidden := sorted(set(filters) & set(admins))):
        raise BadRequest(f"Invalid input for filters: {hidden[0]} is no attribute to filter by")
    return Page(
        filters=filters,
        sort=_sort(request),
        limit=_limit(request),
        marker=request.query("marker") or None,
        reverse=(request.query("page_reverse") or "").lower() in ("true", "1"),
    )


def fields(request: Request, view: dict[str, Any]) -> dict[str, Any]:
    """Only the fields that the client asked for; all of them if it asked for none."""
    wanted = {name for name in request.query_all("fields") if name}
    return {name: value for name, value in view.items() if name in wanted} if wanted else view


def links(
    request: Request, plural: str, path: str, page: Page, ids: Sequence[str], more: bool, before: bool
) -> dict[str, list[dict[str, str]]]:
    """``{"networks_links": […]}``, or nothing where there is no other page."""
    found = []
    if ids and more:
        found.append({"rel": "next", "href": _url(request, path, page, ids[-1], reverse=False)})
    if ids and before:
        found.append({"rel": "previous", "href": _url(request, path, page, ids[0], reverse=True)})
    return {f"{plural}_links": found} if found else {}


def _url(request: Request, path: str, page: Page, marker: str, reverse: bool) -> str:
    kept = [
        (name, value)
        for name in request.raw.params
        if name not in ("limit", "marker", "page_reverse")
        for value in request.query_all(name)
    ]
    kept += [("limit", str(page.limit)), ("marker", marker)]
    if reverse:
        kept.append(("page_reverse", "True"))
    return f"{request.url}{path}?{urlencode(kept)}"


def _limit(request: Request) -> int:
    text = request.query("limit")
    if text is None:
        return MAX_LIMIT
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise BadRequest(f"Limit must be an integer 0 or greater and not '{text}'")
    return min(int(text), MAX_LIMIT) or MAX_LIMIT


def _sort(request: Request) -> list[tuple[str, bool]]:
    keys, directions = request.query_all("sort_key"), request.query_all("sort_dir")
    if directions and len(keys) != len(directions):
        raise BadRequest("The number of sort_keys and sort_dirs must be same")
    if wrong := [text for text in directions if text not in ("asc", "desc")]:
        raise BadRequest(f"sort_dir must be asc or desc and not '{wrong[0]}'")
    return [(key, text == "desc") for key, text in zip(keys, directions or ["asc"] * len(keys), strict=True)]
