"""A backend of volumes in memory, for tests of what is around backends."""

from __future__ import annotations

import io
import threading
import uuid
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import BinaryIO

import msgspec

from kilonova.bus.local import LocalBus
from kilonova.cancel import Cancel
from kilonova.config import Config, Operations
from kilonova.domain.errors import StaleEpoch, Unavailable, VolumeFailed
from kilonova.domain.messages import VolumeEnded
from kilonova.domain.volumes import (
    Connection,
    Connector,
    FileConnection,
    FromImage,
    FromSnapshot,
    FromVolume,
    IscsiConnection,
    Source,
)
from kilonova.engine.faults import NO_FAULTS
from kilonova.image.file import FileStore
from kilonova.image.service import Images
from kilonova.store import volume_types
from kilonova.store.database import Database
from kilonova.volume.base import ByGuest, Capacity, Still
from kilonova.volume.builtin.service import BuiltinVolumes
from kilonova.volume_manager.parts import Parts, Place
from kilonova.volume_manager.service import Manager
from kilonova.volume_manager.uploads import ImageUploads


class MemoryBackend:
    """``made``: volume → (GiB, text that says what it holds). Knobs: ``away``, ``refuses`` (a verb), ``hold``
    (a verb that waits until it is cancelled or ``go`` is set), ``written`` (snapshots are made by guests),
    ``at_once`` (or at once, while guests are held still),
    ``endless`` (what is read of a volume, slowly)."""

    shared = True
    multiattach = True

    def __init__(self, free: float = 1000.0) -> None:
        self.made: dict[str, tuple[int, str]] = {}
        self.snaps: dict[str, tuple[str, str]] = {}
        """Snapshot → its volume, and what that held."""
        self.let_in: set[tuple[str, str, str]] = set()
        """Volume, host, initiator."""
        self.opened: list[tuple[str, str | None]] = []
        """Volume, snapshot."""
        self.free = free
        self.away = False
        self.refuses = ""
        self.hold = ""
        self.written = False
        self.at_once = False
        self.endless = False
        self.held = threading.Event()
        self.go = threading.Event()

    def _verb(self, verb: str, cancel: Cancel | None = None) -> None:
        if self.away:
            raise Unavailable("the store does not answer")
        if self.refuses == verb:
            raise VolumeFailed(f"{verb}: no")
        if self.hold == verb and cancel is not None:
            with cancel.sets(self.go):
                self.held.set()
                assert self.go.wait(30)
            if cancel.is_set():
                raise StaleEpoch("moved on")

    def place(self) -> str:
        return f"memory {id(self)}"

    def check(self) -> None:
        self._verb("check")

    def capacity(self) -> Capacity:
        return Capacity(1000.0, self.free)

    def ensure_volume(self, volume_id: str, size_gb: int, source: Source, cancel: Cancel) -> str:
        self._verb("ensure_volume", cancel)
        holds = "zeros"
        match source:
            case FromImage():
                holds = f"image {source.image.id}"
            case FromSnapshot():
                holds = self.snaps[source.snapshot_id][1]
            case FromVolume():
                holds = self.made[source.volume_id][1]
        self.made.setdefault(volume_id, (size_gb, holds))
        return "blank"

    def address(self, volume_id: str) -> str:
        self._verb("address")
        return self.made[volume_id][1]

    def take_over(self, volume_id: str, size_gb: int, address: str, cancel: Cancel) -> None:
        self._verb("take_over", cancel)
        self.made[volume_id] = (size_gb, address)

    def extend(self, volume_id: str, size_gb: int, cancel: Cancel) -> None:
        self._verb("extend", cancel)
        self.made[volume_id] = (size_gb, self.made[volume_id][1])

    def delete(self, volume_id: str) -> None:
        self._verb("delete")
        self.made.pop(volume_id, None)
        self.snaps = {one: held for one, held in self.snaps.items() if held[0] != volume_id}
        self.let_in = {way for way in self.let_in if way[0] != volume_id}

    def ensure_snapshot(
        self,
        volume_id: str,
        snapshot_id: str,
        cancel: Cancel,
        by_guest: ByGuest | None = None,
        still: Still = nullcontext,
    ) -> None:
        self._verb("ensure_snapshot", cancel)
        if snapshot_id in self.snaps:
            return
        if self.written:
            assert by_guest is not None
            by_guest(FileConnection(path=f"/nowhere/snapshot-{snapshot_id}"))
        with still() if self.at_once else nullcontext():
            self.snaps[snapshot_id] = (volume_id, self.made[volume_id][1])

    def delete_snapshot(self, volume_id: str, snapshot_id: str) -> None:
        self._verb("delete_snapshot")
        self.snaps.pop(snapshot_id, None)

    def revert(self, volume_id: str, snapshot_id: str, cancel: Cancel) -> None:
        self._verb("revert", cancel)
        self.made[volume_id] = (self.made[volume_id][0], self.snaps[snapshot_id][1])

    def connect(self, volume_id: str, connector: Connector) -> Connection:
        self._verb("connect")
        self.let_in.add((volume_id, connector.host, connector.initiator))
        return IscsiConnection(
            portal="127.0.0.1:3260", iqn=f"iqn.x:{volume_id}", lun=1, username="u", password="secret"
        )

    def disconnect(self, volume_id: str, connector: Connector) -> None:
        self._verb("disconnect")
        self.let_in.discard((volume_id, connector.host, connector.initiator))

    def open(self, volume_id: str, snapshot_id: str | None = None) -> BinaryIO:
        self._verb("open")
        self.opened.append((volume_id, snapshot_id))
        if snapshot_id is not None:
            assert snapshot_id in self.snaps
        return Endless(self.held) if self.endless else io.BytesIO(b"\0" * 4096)

    def volumes(self) -> set[str]:
        return set(self.made)

    def exports(self) -> set[str]:
        return {volume for volume, _, _ in self.let_in}

    @property
    def ways(self) -> set[tuple[str, str]]:
        """Volume, host."""
        return {(volume, host) for volume, host, _ in self.let_in}

    def snapshots(self) -> dict[str, str]:
        return {snapshot: volume for snapshot, (volume, _) in self.snaps.items()}


class Endless(io.BytesIO):
    """A disk that nobody reads to its end."""

    def __init__(self, begun: threading.Event) -> None:
        super().__init__()
        self._begun = begun

    def read(self, size: int | None = -1, /) -> bytes:
        self._begun.set()
        threading.Event().wait(0.02)
        return b"\0" * 512


class Volumes:
    """The volume service with managers of MemoryBackends, in this process. ``close()`` ends it."""

    def __init__(self, db: Database, folder: Path, config: Config | None = None) -> None:
        operations = Operations(lease=60.0)
        self.config = msgspec.structs.replace(config or Config(), operations=operations)
        self.db = db
        self.bus = LocalBus()
        self.told: list[VolumeEnded] = []
        self.backend = MemoryBackend()
        self.images = Images(db, FileStore(folder), self.config)
        self.closing = ExitStack()
        self.closing.callback(self.bus.close)
        with db.write() as conn:
            volume_types.seed(conn)
        self.service = BuiltinVolumes(db, self.bus, self.config)
        self.parts = self.parts_of("box", {"memory": self.backend})
        self.manager: Manager | None = None

    def parts_of(self, name: str, backends: dict[str, MemoryBackend]) -> Parts:
        return Parts(
            name=name,
            owner=f"volume.{name}/{uuid.uuid4()}",
            config=self.config,
            db=self.db,
            bus=self.bus,
            places={one: Place("memory", one, backend) for one, backend in backends.items()},
            uploads=ShortUploads(self.images),
            faults=NO_FAULTS,
            ended=self.told.append,
        )

    def start(self) -> Volumes:
        self.manager = Manager(self.parts)
        self.manager.start()
        return self

    def close(self) -> None:
        if self.manager is not None:
            self.manager.close()
        self.closing.close()


class ShortUploads(ImageUploads):
    """The volumes of a MemoryBackend are shorter than they say."""

    def upload(self, image_id: str, data: BinaryIO, size: int, cancel: Cancel) -> None:
        super().upload(image_id, data, 4096, cancel)
