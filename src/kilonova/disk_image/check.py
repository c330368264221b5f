"""Is what came of an image what was promised, and safe? Found out in threads, of the file, as it grows.

A piece is hashed by the thread that has just read it, and has it at hand: what another one reads comes from
memory, at two thirds of the speed.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from functools import partial

from kilonova.cancel import Cancel
from kilonova.disk_image.tree_hash import PIECE, TreeHash
from kilonova.domain.errors import BuildAborted, StaleEpoch, UnsupportedMedia
from kilonova.domain.servers import ImageRef


class Check:
    """Of the file behind ``descriptor``. By the tree hash if it is known, else by sha512, which is slower."""

    def __init__(self, image: ImageRef, descriptor: int, cancel: Cancel) -> None:
        from kilonova.disk_image.inspect import Inspector

        self._image = image
        self._descriptor = descriptor
        self._cancel = cancel
        self._tree = TreeHash() if image.tree_hash is not None else None
        self._chain = hashlib.sha512()
        self._inspector = Inspector(image.disk_format, image.container_format)
        self._turns = threading.Condition()
        self._inspected = 0
        """Bytes: the inspector is given what came in its order."""
        self._left = False
        self._own = threading.local()
        self._ends: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="image-check", daemon=True)
        self._thread.start()

    def reached(self, end: int) -> None:
        """The file has its final bytes up to there."""
        self._ends.put(end)

    def verdict(self) -> int:
        """The virtual size, when all was looked at. BuildAborted: the bytes are not those that were promised,
        or not safe. StaleEpoch."""
        self._end()
        if self._failure is not None:
            raise self._failure
        image, kind, wanted = self._image, "sha512", self._image.os_hash_value
        found = self._chain.hexdigest()
        if self._tree is not None:
            kind, wanted, found = "tree hash", image.tree_hash, self._tree.hexdigest()
        if wanted is not None and found != wanted:
            raise BuildAborted(f"image {image.id}: its {kind} is {found}, not {wanted}")
        try:
            return self._inspector.finish()
        except UnsupportedMedia as error:
            raise BuildAborted(f"image {image.id} is not safe to use: {error.message}") from error

    def __enter__(self) -> Check:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stopped = True
        self._leave()
        self._end()
        if self._tree is not None:
            self._tree.close()

    def _end(self) -> None:
        if self._thread.is_alive():
            self._ends.put(None)
            self._thread.join()

    def _run(self) -> None:
        try:
            self._look()
        except Exception as error:  # noqa: BLE001 - told to who waits for the verdict
            self._failure = error

    def _look(self) -> None:
        """By whole pieces, until it is known where the last one ends."""
        at = end = 0
        while (said := self._ends.get()) is not None:
            end = said
            while end - at >= PIECE:
                at += self._piece(at, PIECE)
        while at < end and not self._stopped:
            at += self._piece(at, min(PIECE, end - at))

    def _piece(self, at: int, length: int) -> int:
        if self._stopped or self._cancel.is_set():
            raise StaleEpoch(f"image {self._image.id}: the build moved on while it was fetched")
        if self._tree is None:
            self._chain.update(self._looked_at(at, length))
        else:
            self._tree.add(partial(self._hashed, at, length))
        return length

    def _hashed(self, at: int, length: int) -> bytes:
        return hashlib.sha256(self._looked_at(at, length)).digest()

    def _looked_at(self, at: int, length: int) -> memoryview:
        """These bytes, which the inspector has seen; the thread's until it reads others."""
        try:
            data = self._read(at, length)
        except BaseException:
            self._leave()
            raise
        with self._turns:
            self._turns.wait_for(lambda: self._inspected == at or self._left)
            if self._inspected == at:
                self._inspector.feed(data)
                self._inspected = at + length
            self._turns.notify_all()
        return data

    def _read(self, at: int, length: int) -> memoryview:
        if not hasattr(self._own, "buffer"):
            self._own.buffer = memoryview(bytearray(PIECE))
        buffer: memoryview = self._own.buffer
        read = 0
        while read < length:
            came = os.preadv(self._descriptor, [buffer[read:length]], at + read)
            if not came:
                raise BuildAborted(f"image {self._image.id}: its file was cut short while it was fetched")
            read += came
        return buffer[:length]

    def _leave(self) -> None:
        """There will be no verdict: nobody waits for his turn."""
        with self._turns:
            self._left = True
            self._turns.notify_all()
