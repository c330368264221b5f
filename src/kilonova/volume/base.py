"""The protocols of volumes: the service that the control plane asks, and a backend that keeps the bytes.

The service (built in; later a real Cinder) runs where the database is. A backend is worked with by volume
managers (``kilonova volume``), and by nobody else; a host gets a Connection, as data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import BinaryIO, NamedTuple, Protocol

import msgspec

from kilonova.cancel import Cancel
from kilonova.domain.context import RequestContext
from kilonova.domain.servers import ImageRef
from kilonova.domain.volumes import Connection, Connector, Source


class Capacity(NamedTuple):
    """GiB. ``total`` and ``free`` infinite where the backend cannot tell."""

    total: float
    free: float


ByGuest = Callable[[Connection], None]
"""Asks the hypervisor of the guest that writes to a volume to copy it there: to a place that is as large and
that nobody else writes to. When it returns, all is there that the volume held at one moment since. It raises
if that was not to be: Unavailable, when it may be later, or without the guest."""


Still = Callable[[], AbstractContextManager[object]]
"""In its block, of some seconds, the file systems of the guest that writes to a volume are in order, if it
can hold them still. It raises, at its end too, if they had to be and were not."""


class Backend(Protocol):
    """Where volumes are. Every method looks first and does only what is missing, so that calling it again,
    by whomever, is safe; names come from the ids (``volume-<id>``, ``snapshot-<id>``). Nothing half-made has
    such a name.

    Raises Unavailable (the store does not answer), VolumeFailed (it refused; says why). ``cancel`` is set
    when the operation moved on: long work stops soon and raises StaleEpoch.
    """

    shared: bool
    """Every host reaches it; else only the machine that it is on."""
    multiattach: bool

    def place(self) -> str:
        """Which store it is: what has one name is one in all backends of that place."""

    def check(self) -> None:
        """Unavailable, saying why, if it cannot be worked with now."""

    def capacity(self) -> Capacity: ...

    def ensure_volume(self, volume_id: str, size_gb: int, source: Source, cancel: Cancel) -> str:
        """The volume exists, whole, with that content and size: how it was made, ``clone``, ``copy`` or
        ``blank``. Where the source is smaller the rest is zeros. A clone needs nothing of its source's
        lifetime from the caller: delete() of the source is the backend's own business."""

    def address(self, volume_id: str) -> str:
        """Where qemu-img reads it, raw, on this machine. VolumeFailed: it is not there."""

    def take_over(self, volume_id: str, size_gb: int, address: str, cancel: Cancel) -> None:
        """The volume exists, whole, and holds what is at that address of another place, which nobody writes
        to; whatever it held here before."""

    def extend(self, volume_id: str, size_gb: int, cancel: Cancel) -> None:
        """At least that large, online too where a guest has it; what came is zeros."""

    def delete(self, volume_id: str) -> None:
        """Gone, with its snapshots and exports, also if it was not there. Clones of it go on."""

    def ensure_snapshot(
        self,
        volume_id: str,
        snapshot_id: str,
        cancel: Cancel,
        by_guest: ByGuest | None = None,
        still: Still = nullcontext,
    ) -> None:
        """Of one moment, whether or not a guest has the volume: one in which it is ``still``. A store that
        can have no such copy while a guest writes asks for it: VolumeFailed without ``by_guest``."""

    def delete_snapshot(self, volume_id: str, snapshot_id: str) -> None: ...

    def revert(self, volume_id: str, snapshot_id: str, cancel: Cancel) -> None:
        """The volume, which nobody has, holds what the snapshot holds, as far as that goes; what is after
        that is zeros."""

    def connect(self, volume_id: str, connector: Connector) -> Connection:
        """The way there for that host, made if it was not there; the same one each time."""

    def disconnect(self, volume_id: str, connector: Connector) -> None:
        """That host has no way there any more."""

    def open(self, volume_id: str, snapshot_id: str | None = None) -> BinaryIO:
        """Its bytes, or its snapshot's, raw, from the first to the last: for an image made of it. Nobody else
        writes."""

    def volumes(self) -> set[str]:
        """Ids of all that is there, half-made things included: what no record explains is an orphan."""

    def snapshots(self) -> dict[str, str]:
        """Snapshot → its volume."""

    def exports(self) -> set[str]:
        """Volumes for which something was made so that hosts reach them; what no attachment explains is an
        orphan."""


class NewVolume(msgspec.Struct, frozen=True, kw_only=True):
    """A volume that a build wants. ``id`` is the caller's: asked for again it is the same volume."""

    id: str
    size_gb: int
    name: str = ""
    volume_type: str | None = None
    availability_zone: str | None = None
    image: ImageRef | None = None
    snapshot_id: str | None = None
    source_volid: str | None = None


class Ready(NamedTuple):
    """What became of volumes that were asked for."""

    pending: list[str]
    """Still being made."""
    failed: dict[str, str]
    """Volume → why it will never be."""


class VolumeView(msgspec.Struct, frozen=True, kw_only=True):
    """What compute must know of a volume or, as ``size_gb`` and ``bootable`` of its volume, of a snapshot."""

    id: str
    project_id: str
    status: str
    size_gb: int
    bootable: bool
    multiattach: bool
    availability_zone: str
    volume_type: str | None
    image_metadata: dict[str, str] = {}
    """Of the image that it was made of, ``image_id``, ``min_ram`` and ``hw_*`` among it."""


class HeldVolume(NamedTuple):
    """What a server has, or is promised."""

    attachment_id: str
    volume_id: str
    size_gb: int
    multiattach: bool
    read_only: bool
    """Whether its guest may only read."""


class VolumeService(Protocol):
    """What the control plane asks of the volume service. Every method that changes something is part of the
    caller's transaction, if it is in one (store.database), or one of its own.
    """

    def volume(self, context: RequestContext, volume_id: str) -> VolumeView:
        """NotFound if there is none that the project may see."""

    def snapshot(self, context: RequestContext, snapshot_id: str) -> VolumeView: ...

    def check_new(self, context: RequestContext, volume_type: str | None, sizes_gb: Sequence[int]) -> None:
        """Whether these could be created now: BadRequest (no such type), QuotaExceeded. Takes nothing."""

    def create(self, context: RequestContext, new: Sequence[NewVolume]) -> None:
        """Begin to make them; those that exist already stay. QuotaExceeded, BuildAborted: none was begun.
        The managers' word that one ended reaches ``on_ended`` of whoever wired the service."""

    def ready(self, volume_ids: Sequence[str]) -> Ready: ...

    def create_snapshot(
        self, context: RequestContext, volume_id: str, snapshot_id: str, name: str, in_order: bool = False
    ) -> None:
        """Begin a snapshot of that id (the caller's; again: the same one) of one moment, also of a volume in
        use. ``in_order``: it fails if the guest that runs with it cannot hold its file systems still.
        NotFound, BadRequest, QuotaExceeded."""

    def snapshots_ready(self, snapshot_ids: Sequence[str]) -> Ready: ...

    def discard_snapshot(self, snapshot_id: str) -> None:
        """One that create_snapshot() began, and nobody needs: deleted, made or not. Nothing if it is gone, or
        if a volume is being made of it."""

    def check_reimage(self, context: RequestContext, volume_id: str, image: ImageRef) -> None:
        """Whether reimage() could begin now; the same errors."""

    def reimage(self, context: RequestContext, volume_id: str, image: ImageRef) -> None:
        """Begin to replace all that it holds by the image: ``downloading``, then the status that it had; no
        guest may be running on it. Nothing if that is under way. NotFound; BadRequest, also if more than one
        server has it."""

    def reserve(self, context: RequestContext, volume_id: str, server_id: str, attachment_id: str) -> None:
        """Promise the volume to a server, by an attachment of that id (the caller's; again: the same one).
        NotFound; BadRequest in Cinder's words if it is not available, nor multiattach and in use."""

    def connect(
        self,
        attachment_id: str,
        connector: Connector,
        check: Callable[[], object] = lambda: None,
        check_server: Callable[[], object] = lambda: None,
    ) -> Connection:
        """The way to the volume for that host; asks its manager. Not in a transaction. The attachment is
        ``attaching``; a host that it was shown to before has no way there any more. ``check`` and
        ``check_server`` are called where the host is written down, in that transaction, and raise if that
        host may not have it any more: the one before the volume is locked, for operations, the other after
        it, for servers, as the order of locks is."""

    def complete(self, attachment_id: str, mountpoint: str) -> None:
        """The guest has it, or its next one will: ``attached``, the volume ``in-use``."""

    def begin_detaching(self, attachment_id: str) -> None:
        """``detaching``. Conflict if it is not attached."""

    def roll_detaching(self, attachment_id: str) -> None:
        """It stays attached after all."""

    def release(self, attachment_id: str, delete_volume: bool = False) -> None:
        """The attachment is no more, and, if so asked and nobody else has it, nor any snapshot is of it, the
        volume is deleted. Its host's way there is closed. Safe to call again."""

    def park(self, attachment_id: str) -> None:
        """Its server is on no host for now: ``reserved``, and its host's way there is closed. Safe to call
        again."""

    def discard(self, volume_id: str) -> None:
        """A volume that a build began to make, and nobody has: deleted, made or not."""

    def connection(self, attachment_id: str) -> Connection | None:
        """The way there as it was given last; asks the manager where a secret belongs to it."""

    def held(self, server_id: str) -> list[HeldVolume]:
        """All of a server's; one query."""

    def attached(self, server_ids: Sequence[str]) -> dict[str, list[str]]:
        """Attachments by server; one query for all."""
