"""What a handler answers, and the bytes that it becomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

_json = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Reply:
    """A handler's answer. ``body``: anything msgspec can encode as JSON, bytes as they are, an iterable of
    bytes as a stream, or None for no body."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


def encoded(reply: Reply) -> Reply:
    """The same answer with its body as bytes, unless that is a stream or none."""
    if reply.body is None or isinstance(reply.body, bytes) or reply.content_type != "application/json":
        return reply
    return replace(reply, body=_json.encode(reply.body))
