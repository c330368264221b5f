"""Images in a Ceph pool, each an RBD image of its id with a protected snapshot ``snap``: Glance's names.

An upload is whole when its mark is there (rbd.pool); a clone is made of the snapshot, and outlives the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

from kilonova.domain.errors import BadRequest, NotFound, TooLarge, Unavailable, VolumeFailed
from kilonova.domain.servers import ImageLocation
from kilonova.image.base import checked
from kilonova.rbd import Pool
from kilonova.rbd.bindings import Closed
from kilonova.rbd.pool import BLOCK, Writer

SNAPSHOT = "snap"
_FIRST, _MOST = 64 << 20, 8 << 30
"""Bytes that an image whose size nobody said begins with, and by which it grows at most."""


class RbdStore:
    """An ImageStore in ``pool``. Who reads what is deleted meanwhile reads zeros, and sees it by the hash."""

    name = "rbd"
    keeps_disks = True

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._fsid = ""

    def put(self, image_id: str, chunks: Iterable[bytes], max_size: int) -> int:
        """All of ``chunks`` or nothing; what they raise passes on. TooLarge past ``max_size``, or when the
        cluster is full; Unavailable if it does not answer."""
        name = checked(image_id)
        with _store_errors():
            self._pool.remove(name)  # what a kill left
        try:
            with _store_errors():
                self._pool.create(name, _FIRST)
                with self._pool.writing(name) as writer:
                    size = _write(writer, chunks, max_size)
                self._pool.snapshot(name, SNAPSHOT, protect=True)
                self._pool.mark(name)
        except BaseException:
            with _store_errors():
                self._pool.remove(name)
            raise
        return size

    def open(self, image_id: str) -> BinaryIO:
        name = checked(image_id)
        with _store_errors():
            if not self._pool.marked(name):
                raise NotFound(f"The store has no data of image {image_id}")
            return self._pool.open(name, SNAPSHOT)

    def read(self, image_id: str) -> Iterator[bytes]:
        with self.open(image_id) as file:
            while block := file.read(BLOCK):
                yield block

    def delete(self, image_id: str) -> None:
        """Servers and volumes that are clones of it go on."""
        with _store_errors():
            self._pool.remove(checked(image_id))

    def location(self, image_id: str) -> ImageLocation:
        if not self._fsid:
            self._fsid = self._pool.cluster.fsid
        return ImageLocation(
            fsid=self._fsid, pool=self._pool.name, image=checked(image_id), snapshot=SNAPSHOT
        )

    @contextmanager
    def reading(self, disk: ImageLocation) -> Iterator[BinaryIO]:
        cluster = self._pool.cluster
        with _store_errors():
            if disk.fsid != cluster.fsid:
                raise BadRequest(f"images are kept in the Ceph cluster {cluster.fsid}, not in {disk.fsid}")
        with _store_errors(), ExitStack() as stack:
            try:
                file = stack.enter_context(cluster.pool(disk.pool).reading(disk.image, disk.snapshot))
            except Closed as error:
                raise BadRequest(f"client.{cluster.user} may not read pool {disk.pool}") from error
            except NotFound as error:
                raise BadRequest(error.message) from error
            yield file


def _write(writer: Writer, chunks: Iterable[bytes], max_size: int) -> int:
    size, room = 0, _FIRST
    for chunk in chunks:
        if size + len(chunk) > max_size:
            raise TooLarge(f"The incoming image is too large: it is more than {max_size} bytes")
        while room < size + len(chunk):
            room += min(room, _MOST)
            writer.resize(room)
        for start in range(0, len(chunk), BLOCK):
            writer.write(chunk[start : start + BLOCK])
        size += len(chunk)
    writer.resize(size)
    return size


@contextmanager
def _store_errors() -> Iterator[None]:
    """What Ceph refuses is no fault of the caller's."""
    try:
        yield
    except VolumeFailed as error:
        raise Unavailable(f"The image store failed: {error.message}") from error
