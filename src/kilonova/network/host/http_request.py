"""As much of HTTP's requests as the metadata service needs: where one ends, and how long its body is."""

from __future__ import annotations

from typing import NamedTuple

MAX_BODY = 1020
"""Bytes: the longest password that Nova keeps."""
_END = b"\r\n\r\n"
"""Of a request's head."""
LONGEST = 8192 + MAX_BODY
"""Bytes of a request, with its body."""


class Request(NamedTuple):
    head: bytes
    body: bytes | None
    """None if it is longer than MAX_BODY, or of no length that is said."""


class Incoming:
    """A request as it comes, in pieces however small: what came before is not looked through again."""

    def __init__(self) -> None:
        self._came = bytearray()
        self._head: bytes | None = None
        self._length: int | None = None

    def __len__(self) -> int:
        return len(self._came)

    def add(self, more: bytes) -> Request | None:
        """The request, when all of it that is wanted came; None: not yet."""
        seen = max(0, len(self._came) - len(_END) + 1)
        self._came += more
        if self._head is None:
            end = self._came.find(_END, seen)
            if end < 0:
                return None
            self._head = bytes(self._came[:end])
            self._length = _length(self._head)
        length, begin = self._length, len(self._head) + len(_END)
        if length is None or length > MAX_BODY:
            return Request(self._head, None)
        if len(self._came) < begin + length:
            return None
        return Request(self._head, bytes(self._came[begin : begin + length]))


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
