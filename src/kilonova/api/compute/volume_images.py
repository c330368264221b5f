"""createImage of a server that boots from a volume: snapshots of all its volumes, and an image without data
whose property ``block_device_mapping`` lists them, as Nova has it.

Snapshots, image and operation are one transaction. Each snapshot is of a moment of its own. The image is
active when all are there; if one fails none of them is left. Whoever deletes the image leaves them.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.api.compute.state import ComputeAPI
from kilonova.domain.block_devices import BlockDevice
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import Conflict, QuotaExceeded
from kilonova.store import block_devices


class Snapshots:
    """Of one createImage: taken() before the server is locked, listed() after."""

    def __init__(
        self, api: ComputeAPI, context: RequestContext, server_id: str, name: str, in_order: bool
    ) -> None:
        """``in_order``: they fail where a guest that runs cannot hold its file systems still."""
        self._api = api
        self._context = context
        self._server_id = server_id
        self._in_order = in_order
        self._name = f"snapshot for {name}"[:255]
        self._taken: dict[str, str] = {}
        """Volume → its snapshot."""

    @property
    def ids(self) -> list[str]:
        return list(self._taken.values())

    def taken(self, conn: sa.Connection) -> None:
        """Begun, in the caller's transaction. QuotaExceeded; BadRequest for a volume that something else is
        done to."""
        for device in _volumes(conn, self._server_id):
            assert device.volume_id is not None
            snapshot_id = self._taken[device.volume_id] = str(uuid.uuid4())
            try:
                self._api.volumes.create_snapshot(
                    self._context, device.volume_id, snapshot_id, self._name, self._in_order
                )
            except QuotaExceeded as error:  # 413 in the Block Storage API, and not here
                raise QuotaExceeded(error.message) from error

    def listed(self, conn: sa.Connection) -> dict[str, str]:
        """The image's properties that say where the disks are. Conflict if a volume came or left since."""
        devices = block_devices.of_server(conn, self._server_id)
        if {device.volume_id for device in _volumes(conn, self._server_id)} != self._taken.keys():
            raise Conflict(f"The volumes of instance {self._server_id} have just changed")
        root = next((device.device_name for device in devices if device.is_root), "")
        sizes = {one.volume_id: one.size_gb for one in self._api.volumes.held(self._server_id)}
        mapping = [self._mapped(device, sizes) for device in devices]
        return {
            "block_device_mapping": msgspec.json.encode(mapping).decode(),
            "bdm_v2": "True",
            **({"root_device_name": root} if root else {}),
        }

    def _mapped(self, device: BlockDevice, sizes: Mapping[str, int]) -> dict[str, Any]:
        found: dict[str, Any] = {
            "source_type": device.source_type,
            "destination_type": device.destination_type,
            "snapshot_id": None,
            "volume_id": None,
            "image_id": None,
            "no_device": None,
            "tag": None,
            "volume_type": None,
            "guest_format": device.guest_format,
            "boot_index": device.boot_index,
            "device_name": device.device_name,
            "device_type": device.device_type,
            "disk_bus": device.disk_bus,
            "volume_size": device.volume_size,
            "delete_on_termination": device.delete_on_termination,
        }
        if device.volume_id is not None:
            snapshot = {"source_type": "snapshot", "snapshot_id": self._taken[device.volume_id]}
            found |= snapshot | {"volume_size": sizes[device.volume_id], "guest_format": None}
        return found


def _volumes(conn: sa.Connection, server_id: str) -> Sequence[BlockDevice]:
    """Those that the server has."""
    devices = block_devices.of_server(conn, server_id)
    return [device for device in devices if device.volume_id is not None and device.attachment_id is not None]
