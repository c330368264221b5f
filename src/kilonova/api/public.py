"""The address that clients know, where it is not the one that requests come to: behind a proxy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def known_as(endpoint: str, application: Wsgi) -> Wsgi:
    """The same application, as if every request had been sent to ``endpoint`` (``https://host:port/path``):
    so that every link, the catalog and the version documents lead there. Without one, to whatever address the
    client asked (the Host header).
    """
    if not endpoint:
        return application
    parts = urlsplit(endpoint)
    address = {
        "wsgi.url_scheme": parts.scheme,
        "HTTP_HOST": parts.netloc,
        "SCRIPT_NAME": parts.path.rstrip("/"),
    }

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        return application(environ | address, start_response)

    return answer
