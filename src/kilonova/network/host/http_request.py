"""As much of HTTP's requests as the metadata service needs: where one ends, and how long its body is."""

from __future__ import annotations

from typing import NamedTuple

MAX_BODY = 1020
"""Bytes: the longest password that Nova keeps."""
LONGEST = 8192 + MAX_BODY
"""Bytes of a request, with its body."""


class Request(NamedTuple):
    head: bytes
    body: bytes | None
    """None if it is longer than MAX_BODY, or of no length that is said."""


def read(came: bytes) -> Request | None:
    """The request, when all of it that is wanted came; None: not yet."""
    head, end, body = came.partition(b"\r\n\r\n")
    if not end:
        return None
    length = _length(head)
    if length is None or length > MAX_BODY:
        return Request(head, None)
    return Request(head, body[:length]) if len(body) >= length else None


def _length(head: bytes) -> int | None:
    """Of the body; None if it is not said how long it is. No other header is ever looked at."""
    found = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"transfer-encoding":
            return None
        if name.strip().lower() == b"content-length":
            if not value.strip().isdigit() or len(value) > 10:
                return None
            found = int(value)
    return found
