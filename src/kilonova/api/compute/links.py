"""Links in answers: ``self`` (with the API's version), ``bookmark`` (without), and ``next`` of a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

from kilonova.api.compute import queries
from kilonova.api.http import Request


def resource(request: Request, collection: str, identifier: str) -> list[dict[str, str]]:
    """``resource(request, "flavors", "1")``: the two links that every resource carries."""
    path = f"{collection}/{quote(identifier, safe='')}"
    return [
        {"rel": "self", "href": f"{request.url}/{path}"},
        {"rel": "bookmark", "href": f"{_unversioned(request)}/{path}"},
    ]


def bookmark(request: Request, collection: str, identifier: str) -> list[dict[str, str]]:
    """The one link of a resource that is embedded in another."""
    return resource(request, collection, identifier)[1:]


def page(request: Request, name: str, collection: str, items: Sequence[Any], last_id: str) -> dict[str, Any]:
    """``{"flavors_links": [next]}`` if the page is full, else nothing: to merge into the answer.

    ``collection`` is the path of the list; the marker of the next page is ``last_id``.
    """
    if not items or len(items) != queries.limit(request):
        return {}
    asked = {key: request.query_all(key) for key in request.raw.params} | {"marker": [last_id]}
    query = urlencode(sorted(asked.items()), doseq=True)
    return {f"{name}_links": [{"rel": "next", "href": f"{request.url}/{collection}?{query}"}]}


def _unversioned(request: Request) -> str:
    return request.url.rsplit("/", 1)[0]
