"""Volumes, their snapshots and attachments (Cinder's names and values), and the ways to one's bytes.

Sizes of volumes are GiB, as in the Block Storage API.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from kilonova.domain.servers import ImageRef


class VolumeStatus(StrEnum):
    """Where a volume is in its life.

        creating → available ⇄ reserved → attaching → in-use → detaching → available
                       ⇅ extending, uploading, retyping, reverting, downloading, awaiting-transfer
        any → deleting → (gone)

    ``maintenance``: an admin has it copied to another backend. What fails ends in ``error``,
    ``error_deleting``, ``error_extending``, or back where it was.
    """

    CREATING = "creating"
    DOWNLOADING = "downloading"
    AVAILABLE = "available"
    RESERVED = "reserved"
    ATTACHING = "attaching"
    IN_USE = "in-use"
    DETACHING = "detaching"
    EXTENDING = "extending"
    UPLOADING = "uploading"
    RETYPING = "retyping"
    REVERTING = "reverting"
    MAINTENANCE = "maintenance"
    AWAITING_TRANSFER = "awaiting-transfer"
    DELETING = "deleting"
    ERROR = "error"
    ERROR_DELETING = "error_deleting"
    ERROR_EXTENDING = "error_extending"


class SnapshotStatus(StrEnum):
    CREATING = "creating"
    AVAILABLE = "available"
    DELETING = "deleting"
    ERROR = "error"
    ERROR_DELETING = "error_deleting"


class AttachStatus(StrEnum):
    """Of an attachment. ``reserved``: promised to a server; ``attaching``: its host knows the way."""

    RESERVED = "reserved"
    ATTACHING = "attaching"
    ATTACHED = "attached"
    DETACHING = "detaching"


class VolumeWork(StrEnum):
    """Kinds of operations: of a volume, a snapshot, a copy, or an attachment that is no more."""

    CREATE = "volume_create"
    DELETE = "volume_delete"
    EXTEND = "volume_extend"
    UPLOAD = "volume_upload"
    REVERT = "volume_revert"
    REIMAGE = "volume_reimage"
    MOVE = "volume_move"
    """To another backend."""
    CLEAR = "volume_clear"
    """What is left of it where it is no more."""
    DISCONNECT = "volume_disconnect"
    SNAPSHOT_CREATE = "snapshot_create"
    SNAPSHOT_DELETE = "snapshot_delete"


class MigrationStatus(StrEnum):
    """Of a volume's last move to another backend (Cinder's values)."""

    MIGRATING = "migrating"
    SUCCESS = "success"
    ERROR = "error"


class CopyState(StrEnum):
    """Of a copy that a guest's hypervisor makes of one of its volumes."""

    GOING = "going"
    COPIED = "copied"
    OFF = "off"
    """No guest writes to the volume there."""


def manager_topic(host: str) -> str:
    """Where the managers of a volume's ``host`` (``name@backend#pool``) take their work."""
    return f"volume.{host.partition('@')[0]}"


# --- what a new volume holds at first
class Blank(msgspec.Struct, frozen=True, kw_only=True, tag="blank"):
    """Zeros, whatever the place held before."""


class FromImage(msgspec.Struct, frozen=True, kw_only=True, tag="image"):
    image: ImageRef


class FromSnapshot(msgspec.Struct, frozen=True, kw_only=True, tag="snapshot"):
    snapshot_id: str
    volume_id: str
    """The snapshot's."""


class FromVolume(msgspec.Struct, frozen=True, kw_only=True, tag="volume"):
    volume_id: str


Source = Blank | FromImage | FromSnapshot | FromVolume


# --- the way to a volume's bytes, for the host that a server is on
class HostConnector(msgspec.Struct, frozen=True, kw_only=True):
    """How a host reaches volumes, as it says of itself. Who it is, the message says that this is in."""

    ip: str = ""
    initiator: str = ""
    """iSCSI qualified name."""
    machine: str = ""
    """Hosts of one machine see the same files. Empty: it does not say."""

    def of(self, host: str) -> Connector:
        return Connector(host=host, ip=self.ip, initiator=self.initiator, machine=self.machine)


class Connector(HostConnector, frozen=True, kw_only=True):
    """A host that wants to reach volumes."""

    host: str

    def is_same_way(self, other: Connector) -> bool:
        """Whether what a backend lets in for the one is what it lets in for the other."""
        return (self.host, self.initiator) == (other.host, other.initiator)


class FileConnection(msgspec.Struct, frozen=True, kw_only=True, tag="file"):
    """A file on the host, or on a file system that all hosts share. Its bytes are the disk's (raw)."""

    path: str


class RbdConnection(msgspec.Struct, frozen=True, kw_only=True, tag="rbd"):
    """An image of a Ceph pool. The key of ``user`` is on the host, never in a message."""

    pool: str
    image: str
    monitors: list[str]
    """``address:port``."""
    user: str
    fsid: str


class IscsiConnection(msgspec.Struct, frozen=True, kw_only=True, tag="iscsi"):
    """A LUN of a target; CHAP. The password is for the one connection and in no record, nor in what is logged
    of a message that has it."""

    portal: str
    iqn: str
    lun: int
    username: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return f"IscsiConnection({self.portal}, {self.iqn}, lun={self.lun}, username={self.username!r})"


Connection = FileConnection | RbdConnection | IscsiConnection


def connection_info(connection: Connection) -> dict[str, Any]:
    """As the Block Storage API gives it: ``driver_volume_type`` and the rest."""
    match connection:
        case FileConnection():
            return {"driver_volume_type": "local", "device_path": connection.path}
        case RbdConnection():
            pairs = [monitor.rpartition(":") for monitor in connection.monitors]
            return {
                "driver_volume_type": "rbd",
                "name": f"{connection.pool}/{connection.image}",
                "hosts": [pair[0].strip("[]") for pair in pairs],
                "ports": [pair[2] for pair in pairs],
                "cluster_name": "ceph",
                "auth_enabled": True,
                "auth_username": connection.user,
                "secret_type": "ceph",
            }
        case IscsiConnection():
            return {
                "driver_volume_type": "iscsi",
                "target_portal": connection.portal,
                "target_iqn": connection.iqn,
                "target_lun": connection.lun,
                "auth_method": "CHAP",
                "auth_username": connection.username,
                "auth_password": connection.password,
            }
