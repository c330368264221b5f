"""A hash of much data that many cores share: sha256 over the sha256 of each MiB.

An image's own hash (Glance's, sha512) is one chain from the first byte to the last, and slower than a disk.
This one is made with it when an image comes in; hosts that know it check what they fetch by it alone.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

PIECE = 1 << 20
_THREADS = 2
AHEAD = 8
"""Pieces that may wait for a thread."""


class TreeHash:
    """Like one of hashlib's. close() ends its threads, also after a failure."""

    def __init__(self) -> None:
        self._root = hashlib.sha256()
        self._piece: list[memoryview] = []
        self._room = PIECE
        self._hashed: deque[Future[bytes]] = deque()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="image-hash")

    def update(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            part, rest = rest[: self._room], rest[self._room :]
            self._piece.append(part)
            self._room -= len(part)
            if not self._room:
                self._submit()

    def add(self, digest: Callable[[], bytes]) -> None:
        """The sha256 of the next piece, as one of the threads finds it out; what that raises, this or a later
        call raises."""
        while len(self._hashed) >= AHEAD:
            self._root.update(self._hashed.popleft().result())
        self._hashed.append(self._pool.submit(digest))

    def hexdigest(self) -> str:
        """Of all; afterwards it takes no more."""
        if self._piece:
            self._submit()
        while self._hashed:
            self._root.update(self._hashed.popleft().result())
        return self._root.hexdigest()

    def close(self) -> None:
        """Safe to call again."""
        self._pool.shutdown()

    def _submit(self) -> None:
        self.add(partial(_digest, self._piece))
        self._piece, self._room = [], PIECE


def _digest(parts: list[memoryview]) -> bytes:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.digest()
