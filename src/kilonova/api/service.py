"""What an API is made of: Service, Route, and the Request that a handler sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import falcon
import msgspec

from kilonova.api import bodies
from kilonova.api.reply import Reply
from kilonova.domain import codec
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest, KilonovaError, TooLarge, UnsupportedMedia

MAX_BODY = 114_688
"""Bytes of a JSON body: Nova's osapi_max_request_body_size."""

T = TypeVar("T")
Version = tuple[int, int]


@dataclass(slots=True)
class Request:
    """One request as a handler sees it."""

    raw: falcon.Request
    request_id: str
    version: Version = (0, 0)
    """The negotiated microversion; (0, 0) where the API has none."""
    _context: RequestContext | None = None
    _body: bytes | None = None

    @property
    def context(self) -> RequestContext:
        assert self._context is not None, "route without authentication asked for its context"
        return self._context

    @property
    def url(self) -> str:
        """The service's own root as the client reached it, for links: ``http://host:port/prefix``."""
        return str(self.raw.context.root)

    def at_least(self, major: int, minor: int) -> bool:
        return self.version >= (major, minor)

    def query(self, name: str) -> str | None:
        """The last value of a query parameter."""
        values = self.query_all(name)
        return values[-1] if values else None

    def query_all(self, name: str) -> list[str]:
        value = self.raw.params.get(name)
        if value is None:
            return []
        return value if isinstance(value, list) else [value]

    def json(self, kind: type[T], content_types: Sequence[str] = ("application/json",)) -> T:
        """The body as ``kind``. BadRequest says which field is wrong; TooLarge past MAX_BODY."""
        try:
            return codec.from_json(self.body(content_types), kind)
        except msgspec.ValidationError as error:
            raise BadRequest(f"Invalid input: {error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest("Malformed request body: it is not valid JSON") from error

    def body(self, content_types: Sequence[str] = ("application/json",)) -> bytes:
        """All of it. UnsupportedMedia if it is none of ``content_types``; the first one is the default."""
        body = self.any_body()
        kind = (self.raw.content_type or content_types[0]).split(";")[0].strip()
        if body and kind not in content_types:
            raise UnsupportedMedia(f"Unsupported Content-Type: {kind}")
        return body

    def any_body(self) -> bytes:
        """All of it, whatever it is said to be."""
        if self._body is None:
            self._body = self._read_body()
        return self._body

    def _read_body(self) -> bytes:
        length = self.raw.content_length
        if length is not None and length > MAX_BODY:
            raise TooLarge(f"Request body is larger than {MAX_BODY} bytes")
        try:
            data = bodies.of(self.raw).read(MAX_BODY + 1)
        except (OSError, ValueError) as error:
            raise BadRequest(f"Malformed request body: {error}") from error
        if len(data) > MAX_BODY:
            raise TooLarge(f"Request body is larger than {MAX_BODY} bytes")
        return data


Handler = Callable[..., Reply]


@dataclass(frozen=True, slots=True)
class Route:
    """One row of a service's table. Several rows may share method and path with other microversions;
    a request outside all of them gets 404, as Nova answers."""

    method: str
    path: str
    handler: Handler
    since: Version | None = None
    until: Version | None = None
    public: bool = False
    """Served without a token."""
    streamed: bool = False
    """Reads its body as it comes, so that it cannot be run again; what of it is durable, it says itself."""
    creates: bool = False
    """Makes something, by writes to the database alone: takes an Idempotency-Key."""
    quiet: bool = False
    """Asked every few seconds by programs: no line in the log."""

    def serves(self, version: Version) -> bool:
        return (self.since is None or version >= self.since) and (self.until is None or version <= self.until)


@dataclass(frozen=True, kw_only=True)
class Service:
    """One API under one prefix. ``state`` is the handlers' first argument."""

    name: str
    prefix: str
    routes: Sequence[Route]
    state: Any
    fault: Callable[[Request, int, str, KilonovaError | None], Mapping[str, Any]]
    """(request, status, message, error) → the JSON body of a fault."""
    negotiate: Callable[[falcon.Request], Version] | None = None
    decorate: Callable[[Request, falcon.Response], None] | None = None
    """Headers that every answer of this API carries."""


Authenticate = Callable[[str, str], RequestContext]
"""(token, request id) → context; raises Unauthorized."""


Durably = Callable[[], AbstractContextManager[None]]
"""Around what changes the database: it is on the disk before it is answered (Database.durably)."""
