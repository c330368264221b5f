"""The built-in volume service: what compute asks of it (volume.base.VolumeService)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import sqlalchemy as sa

from kilonova.bus.base import Bus
from kilonova.config import Config
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest, BuildAborted, NotFound
from kilonova.domain.servers import ImageRef
from kilonova.domain.volumes import Connection, Connector, SnapshotStatus, VolumeStatus
from kilonova.store import operations, volume_attachments, volume_snapshots, volume_types, volumes
from kilonova.store.database import Database, Row
from kilonova.volume.base import HeldVolume, NewVolume, Ready, VolumeView
from kilonova.volume.builtin import attachments, create, quotas, snapshots, types
from kilonova.volume.builtin import volumes as rules
from kilonova.volume.builtin.backends import NO_BACKEND
from kilonova.volume.builtin.errors import snapshot_not_found
from kilonova.volume.builtin.parts import Parts, nowhere, system_context

_REIMAGED_IN = (VolumeStatus.IN_USE, VolumeStatus.ATTACHING)
"""For who knows that no guest runs on it."""
_MAKING = (VolumeStatus.CREATING, VolumeStatus.DOWNLOADING)


class BuiltinVolumes:
    """Over the database and the bus, by which managers are told. Safe in many threads."""

    def __init__(
        self, db: Database, bus: Bus, config: Config, reach: Callable[[str], None] = nowhere
    ) -> None:
        self.parts = Parts(db, bus, config, reach)
        self.db = db
        self.config = config

    def volume(self, context: RequestContext, volume_id: str) -> VolumeView:
        with self.db.read() as conn:
            row = rules.find(conn, context, volume_id)
            return _view(conn, row, row)

    def snapshot(self, context: RequestContext, snapshot_id: str) -> VolumeView:
        with self.db.read() as conn:
            row = snapshots.find(conn, context, snapshot_id)
            volume = volumes.get(conn, row.volume_id)
            if volume is None:
                raise snapshot_not_found(snapshot_id)
            return _view(conn, row, volume)

    def check_new(self, context: RequestContext, volume_type: str | None, sizes_gb: Sequence[int]) -> None:
        assert context.project_id is not None
        with self.db.read() as conn:
            kind = self._type(conn, context, volume_type)
            more = quotas.amounts(kind.name, volumes=len(sizes_gb), gigabytes=sum(sizes_gb))
            quotas.check(conn, self.config, context.project_id, more, max(sizes_gb, default=0))

    def create(self, context: RequestContext, new: Sequence[NewVolume]) -> None:
        with self.db.write() as conn:
            there = volumes.several(conn, [one.id for one in new])
            wanted = [
                create.record(
                    conn,
                    self.parts,
                    context,
                    self._type(conn, context, one.volume_type),
                    create.Asked(
                        id=one.id,
                        name=one.name,
                        size_gb=one.size_gb,
                        volume_type=one.volume_type,
                        zone=one.availability_zone,
                        image=one.image,
                        snapshot_id=one.snapshot_id,
                        source_volid=one.source_volid,
                    ),
                )
                for one in new
                if one.id not in there
            ]
            if wanted and create.create(conn, self.parts, context, wanted):
                raise BuildAborted(NO_BACKEND)

    def ready(self, volume_ids: Sequence[str]) -> Ready:
        with self.db.read() as conn:
            found = volumes.several(conn, volume_ids)
        gone = {one: f"Volume {one} could not be found." for one in volume_ids if one not in found}
        failed = {
            row.id: row.message or f"Volume {row.id} is in error."
            for row in found.values()
            if row.status == VolumeStatus.ERROR
        }
        return Ready([row.id for row in found.values() if row.status in _MAKING], gone | failed)

    def create_snapshot(
        self, context: RequestContext, volume_id: str, snapshot_id: str, name: str, in_order: bool = False
    ) -> None:
        with self.db.write() as conn:
            snapshots.create(
                conn, self.parts, context, snapshot_id, volume_id, name, force=True, in_order=in_order
            )

    def snapshots_ready(self, snapshot_ids: Sequence[str]) -> Ready:
        with self.db.read() as conn:
            found = volume_snapshots.several(conn, snapshot_ids)
        gone = {one: f"Snapshot {one} could not be found." for one in snapshot_ids if one not in found}
        failed = {
            row.id: row.message or f"Snapshot {row.id} is in error."
            for row in found.values()
            if row.status == SnapshotStatus.ERROR
        }
        return Ready(
            [row.id for row in found.values() if row.status == SnapshotStatus.CREATING], gone | failed
        )

    def discard_snapshot(self, snapshot_id: str) -> None:
        context = RequestContext(request_id="", user_id="", roles=frozenset({"admin"}))
        with self.db.write() as conn, suppress(NotFound, BadRequest):
            snapshots.delete(conn, self.parts, context, snapshot_id, force=True)

    def check_reimage(self, context: RequestContext, volume_id: str, image: ImageRef) -> None:
        with self.db.read() as conn:
            volume = rules.find(conn, context, volume_id)
            rules.check_reimage(conn, volume, image, also_in=_REIMAGED_IN)

    def reimage(self, context: RequestContext, volume_id: str, image: ImageRef) -> None:
        with self.db.write() as conn:
            volume = rules.find(conn, context, volume_id, for_update=True)
            if volume.status != VolumeStatus.DOWNLOADING or volume.image_id != image.id:
                rules.reimage(conn, self.parts, context, volume_id, image, also_in=_REIMAGED_IN)

    def reserve(self, context: RequestContext, volume_id: str, server_id: str, attachment_id: str) -> None:
        with self.db.write() as conn:
            attachments.reserve(conn, context, volume_id, server_id, attachment_id)

    def connect(
        self,
        attachment_id: str,
        connector: Connector,
        check: Callable[[], object] = lambda: None,
        check_server: Callable[[], object] = lambda: None,
    ) -> Connection:
        return attachments.connect(self.parts, attachment_id, connector, check, check_server)

    def complete(self, attachment_id: str, mountpoint: str) -> None:
        with self.db.write() as conn:
            attachments.complete(conn, attachment_id, mountpoint)

    def begin_detaching(self, attachment_id: str) -> None:
        with self.db.write() as conn:
            attachments.begin_detaching(conn, attachment_id)

    def roll_detaching(self, attachment_id: str) -> None:
        with self.db.write() as conn:
            attachments.roll_detaching(conn, attachment_id)

    def release(self, attachment_id: str, delete_volume: bool = False) -> None:
        with self.db.write() as conn:
            attachments.release(conn, self.parts, attachment_id, delete_volume)

    def park(self, attachment_id: str) -> None:
        with self.db.write() as conn:
            attachments.park(conn, self.parts, attachment_id)

    def discard(self, volume_id: str) -> None:
        """One that a build began to make and nobody has."""
        with self.db.write() as conn:
            operations.lock_open(conn, volume_id)
            volume = volumes.get(conn, volume_id, for_update=True)
            if volume is None or volume.status == VolumeStatus.DELETING:
                return
            if not volume_attachments.of_volume(conn, volume_id):
                context = system_context("", volume.project_id, volume.user_id)
                rules.delete_unless_needed(conn, self.parts, context, volume)

    def connection(self, attachment_id: str) -> Connection | None:
        return attachments.connection(self.parts, attachment_id)

    def held(self, server_id: str) -> list[HeldVolume]:
        with self.db.read() as conn:
            rows = volume_attachments.with_volumes(conn, server_id)
        return [
            HeldVolume(row.id, row.volume_id, row.size, bool(row.multiattach), row.attach_mode == "ro")
            for row in rows
        ]

    def attached(self, server_ids: Sequence[str]) -> dict[str, list[str]]:
        with self.db.read() as conn:
            found = volume_attachments.of_servers(conn, server_ids)
        return {server: [row.id for row in rows] for server, rows in found.items()}

    def _type(self, conn: sa.Connection, context: RequestContext, id_or_name: str | None) -> Row:
        try:
            return types.wanted(conn, self.config, context, id_or_name)
        except NotFound as error:
            raise BadRequest(error.message) from error


def _view(conn: sa.Connection, row: Row, volume: Row) -> VolumeView:
    """``row``: the volume, or a snapshot of it."""
    kind = volume_types.get(conn, row.volume_type_id)
    return VolumeView(
        id=row.id,
        project_id=row.project_id,
        status=row.status,
        size_gb=row.size,
        bootable=row.bootable,
        multiattach=volume.multiattach,
        availability_zone=volume.availability_zone,
        volume_type=None if kind is None else kind.name,
        image_metadata=row.image_metadata,
    )
