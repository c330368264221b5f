"""What can be done to the RBD images of a pool: make, clone, grow, snapshot, read, remove to nothing left.

RBD makes and removes an image in steps, and a kill between two of them leaves something with its name. So an
image that is whole gets a mark, which is its own name (a clone inherits the mark of its parent, which has
another one): ``marked`` tells what is whole, and ``remove`` clears away whatever else has the name.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from kilonova.domain.errors import Conflict, NotFound, TooLarge, Unavailable
from kilonova.rbd import bindings, trash
from kilonova.rbd.reader import reader

if TYPE_CHECKING:
    from kilonova.rbd.cluster import Cluster

_MARK = "kilonova.whole"
_OWNER = "kilonova.owner"
_SIZE = "kilonova.size"
"""While it is rolled back."""
BLOCK = 4 << 20
"""Bytes of an object: what is written at once."""
_RESERVED = frozenset('/@:\\"')


class Snapshot(NamedTuple):
    """A snapshot of an image of a pool of the same cluster."""

    pool: str
    image: str
    snapshot: str


class Pool:
    """Every method raises what bindings.translated says. Any number of threads may use it."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self._lock = threading.Lock()
        self._io: bindings.Io | None = None

    # --- images
    def names(self) -> set[str]:
        """Of all that is there, half-made and half-removed images included."""
        with self._translated("list"):
            return set(bindings.rbd().list(self.io()))

    def exists(self, name: str) -> bool:
        return self._found(name) is not None

    def size(self, name: str, snapshot: str | None = None) -> int:
        """Bytes, now or when that was taken. NotFound."""
        with (
            self._translated(name),
            self.cluster.closing.image(
                bindings.image(self.io(), name, snapshot=snapshot, read_only=True), name
            ) as image,
        ):
            return image.size()

    def data_bytes(self, name: str, snapshot: str | None = None) -> int:
        """What was written to it, or to what it is a clone of, at most: by whole objects. NotFound."""
        found = 0

        def count(_offset: int, length: int, exists: bool) -> None:
            nonlocal found
            found += length if exists else 0

        with self._translated(name):
            opened = bindings.image(self.io(), name, snapshot=snapshot, read_only=True)
            with self.cluster.closing.image(opened, name) as image:
                image.diff_iterate(0, image.size(), None, count, True, True)
        return found

    def create(self, name: str, size: int, *, features: int = bindings.FEATURES) -> None:
        """It reads as zeros. Conflict if something has that name."""
        with self._translated(name):
            bindings.rbd().create(self.io(), _checked(name), size, old_format=False, features=features)

    def clone(self, of: Snapshot, name: str, *, features: int = bindings.FEATURES) -> None:
        """As large as the snapshot. It holds the snapshot, not its name: that may be removed. Conflict."""
        source = self.cluster.pool(of.pool).io()
        try:
            with self._translated(name):
                bindings.rbd().clone(
                    source, of.image, of.snapshot, self.io(), _checked(name), features=features
                )
        except NotFound as error:
            if self.capacity()[1] == 0:  # librbd tells what it did not find when it took back the half
                raise TooLarge(f"{self.name}/{name}: Ceph: the pool is full") from error
            raise

    def resize(self, name: str, size: int) -> None:
        """At least that large: it never shrinks. What came is zeros."""
        with self._image(name) as image:
            if image.size() < size:
                image.resize(size)

    def mark(self, name: str, owner: str = "") -> None:
        """It is whole, and that one's."""
        with self._image(name) as image:
            if owner:
                image.metadata_set(_OWNER, owner)
            image.metadata_set(_MARK, name)

    def marked(self, name: str) -> bool:
        found = self._found(name)
        return found is not None and found == name

    def owner(self, name: str) -> str | None:
        """Whose it is, of what is whole; None of what is not, or not there."""
        with suppress(NotFound), self._image(name, read_only=True) as image, suppress(KeyError):
            return image.metadata_get(_OWNER) if image.metadata_get(_MARK) == name else None
        return None

    def remove(self, name: str) -> None:
        """Nothing is left of it, nor of a parent that only it had kept; also if it was not there, or was
        half-made. Where clones live on it, it has no name any more, and goes with the last of them.

        Conflict while somebody has it open (or had it until half a minute ago, and died).
        """
        trash.remove(self, _checked(name))

    @contextmanager
    def writing(self, name: str) -> Iterator[Writer]:
        """To write a disk from the first byte to the last."""
        with self._image(name) as image:
            writer = Writer(image)
            yield writer
            image.flush()

    @contextmanager
    def held(self, name: str) -> Iterator[Callable[[], None]]:
        """Nobody removes it in the block (remove() says Conflict), unless we sleep until Ceph takes us for
        dead: what is yielded, and the end of the block, raise Conflict if another image has the name then.
        """
        with self._image(name) as image:
            mine = image.id()

            def check() -> None:
                with suppress(NotFound), self._image(name, read_only=True) as now:
                    if now.id() == mine:
                        return
                raise Conflict(f"{self.name}/{name} is somebody else's by now")

            yield check
            check()

    def open(self, name: str, snapshot: str | None = None) -> BinaryIO:
        """Its bytes. NotFound."""
        with self._translated(name):
            return reader(bindings.image(self.io(), name, snapshot=snapshot, read_only=True), name)

    @contextmanager
    def reading(self, of: str, snapshot: str) -> Iterator[BinaryIO]:
        """The bytes of a snapshot that others may remove. NotFound; Conflict at the end of the block if they
        did: from then on it read as zeros."""
        before = self._snapshot_ids(of, snapshot)
        with self.open(of, snapshot) as file:
            yield file
        with suppress(NotFound):
            if self._snapshot_ids(of, snapshot) == before:
                return
        raise Conflict(f"{self.name}/{of}@{snapshot} was removed while it was read")

    def qemu_name(self, name: str, snapshot: str | None = None) -> str:
        """As QEMU's tools take it, on a machine that has the same ceph.conf; there is no secret in it."""
        timeout = str(self.cluster.timeout)
        options = {"id": self.cluster.user, "conf": str(self.cluster.conf), "rados_osd_op_timeout": timeout}
        more = "".join(f":{key}={_escaped(value)}" for key, value in options.items())
        at = "" if snapshot is None else f"@{_escaped(snapshot)}"
        return f"rbd:{_escaped(self.name)}/{_escaped(name)}{at}{more}"

    # --- snapshots
    def snapshots(self, name: str) -> set[str]:
        """Those that have a name. NotFound."""
        with self._image(name, read_only=True) as image:
            return trash.named_snapshots(image)

    def snapshot(self, name: str, snapshot: str, *, protect: bool = False) -> None:
        """Make it, unless it is there."""
        with self._image(name) as image:
            if snapshot not in trash.named_snapshots(image):
                image.create_snap(_checked(snapshot))
            if protect and not image.is_protected_snap(snapshot):
                image.protect_snap(snapshot)

    def remove_snapshot(self, name: str, snapshot: str) -> None:
        """It has no name any more; its bytes go with the last clone of it. Also if it was not there."""
        trash.remove_snapshot(self, name, snapshot)

    def rollback(self, name: str, snapshot: str) -> None:
        """All that it holds is the snapshot's again; its size stays. Cut short, it is to be done again."""
        with self._image(name) as image:
            size = max(image.size(), self._size_before(image))
            image.metadata_set(_SIZE, str(size))
            image.rollback_to_snap(snapshot)
            image.resize(size)
            image.metadata_remove(_SIZE)

    # --- the pool
    def capacity(self) -> tuple[int, int]:
        """Bytes: all, and free, of the cluster or of the pool's quota. Unavailable where the cluster does not
        know the pool."""
        answer = self.cluster.command("df", detail="detail")
        for pool in answer["pools"]:
            if pool["name"] == self.name:
                stats = pool["stats"]
                stored, free = int(stats["stored"]), int(stats["max_avail"])
                if quota := int(stats.get("quota_bytes", 0)):
                    free = max(0, min(free, quota - stored))
                return stored + free, free
        raise Unavailable(f"Ceph has no pool {self.name}")

    def trashed(self) -> set[str]:
        """Names of images that were removed and that no clone needs: a removal was cut short."""
        return set(trash.unneeded(self).values())

    def io(self) -> bindings.Io:
        """For this package."""
        connection = self.cluster.connection()
        with self._lock:
            if self._io is None:
                self._io = self._opened(connection)
            return self._io

    def forget(self) -> None:
        """Its connection is no more."""
        with self._lock:
            self._io = None

    def close(self) -> None:
        with self._lock:
            if self._io is not None:
                self._io.close()
            self._io = None

    def _opened(self, connection: bindings.Connection) -> bindings.Io:
        try:
            with bindings.translated(f"pool {self.name}"):
                opened = connection.open_ioctx(self.name)
        except NotFound as error:  # not of an image, as it would be read
            raise Unavailable(f"Ceph has no pool {self.name}") from error
        # Of a full pool Ceph keeps every writer waiting until it is full no more, also who removes. With this
        # what needs no room is done, and what needs it is refused at once.
        opened.set_osdmap_full_try()
        return opened

    def _found(self, name: str) -> str | None:
        """The mark of an image, empty without one; None without an image."""
        with suppress(NotFound), self._image(name, read_only=True) as image:
            try:
                return image.metadata_get(_MARK)
            except KeyError:
                return ""
        return None

    def _snapshot_ids(self, name: str, snapshot: str) -> tuple[str, int]:
        """What no other snapshot ever has. NotFound."""
        with self._image(name, read_only=True) as image:
            for number, named in trash.snapshot_ids(image):
                if named == snapshot:
                    return image.id(), number
        raise NotFound(f"{self.name}/{name} has no snapshot {snapshot}")

    def _size_before(self, image: bindings.RawImage) -> int:
        try:
            return int(image.metadata_get(_SIZE))
        except KeyError:
            return 0

    @contextmanager
    def _image(self, name: str, *, read_only: bool = False) -> Iterator[bindings.RawImage]:
        with self._translated(name):
            opened = bindings.image(self.io(), name, read_only=read_only)
            with self.cluster.closing.image(opened, name) as image:
                yield image

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        with self.cluster.translated(f"{self.name}/{what}"):
            yield


class Writer:
    """Writes one after another; zeros are left out, for a new image reads as zeros."""

    def __init__(self, image: bindings.RawImage) -> None:
        self._image = image
        self._at = 0

    def write(self, data: bytes) -> None:
        """At most BLOCK bytes, for zeros to be found."""
        if data.count(0) != len(data):
            self._image.write(data, self._at)
        self._at += len(data)

    def resize(self, size: int) -> None:
        """As large as that; what is behind it goes."""
        self._image.resize(size)


def _checked(name: str) -> str:
    if not name or _RESERVED & set(name):
        raise Conflict(f"{name!r} is no name of an RBD image")
    return name


def _escaped(text: str) -> str:
    """For QEMU, to whom : @ = end a part."""
    return "".join(f"\\{letter}" if letter in ":@=\\" else letter for letter in text)
