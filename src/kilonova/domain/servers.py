"""Servers: their states, and what a build needs to know of one."""

from __future__ import annotations

import base64
from enum import IntEnum, StrEnum
from typing import Any

import msgspec

from kilonova.domain.network import PlugKind, Vif

_RESCUE_GB = 32
"""What every server may be rescued from: systems for that are small, and some flavors have no disk."""
_YES = frozenset({"1", "t", "true", "on", "y", "yes"})


class VmState(StrEnum):
    """The stable state (Nova's vm_states)."""

    BUILDING = "building"
    ACTIVE = "active"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    STOPPED = "stopped"
    RESCUED = "rescued"
    SHELVED = "shelved"
    SHELVED_OFFLOADED = "shelved_offloaded"
    ERROR = "error"
    DELETED = "deleted"


class TaskState(StrEnum):
    """What is being done to the server now (Nova's task_states)."""

    SCHEDULING = "scheduling"
    NETWORKING = "networking"
    BLOCK_DEVICE_MAPPING = "block_device_mapping"
    SPAWNING = "spawning"
    REBOOTING = "rebooting"
    REBOOTING_HARD = "rebooting_hard"
    POWERING_OFF = "powering-off"
    POWERING_ON = "powering-on"
    PAUSING = "pausing"
    UNPAUSING = "unpausing"
    SUSPENDING = "suspending"
    RESUMING = "resuming"
    IMAGE_SNAPSHOT = "image_snapshot"
    IMAGE_PENDING_UPLOAD = "image_pending_upload"
    IMAGE_UPLOADING = "image_uploading"
    IMAGE_BACKUP = "image_backup"
    REBUILDING = "rebuilding"
    REBUILD_BLOCK_DEVICE_MAPPING = "rebuild_block_device_mapping"
    REBUILD_SPAWNING = "rebuild_spawning"
    RESCUING = "rescuing"
    UNRESCUING = "unrescuing"
    SHELVING = "shelving"
    SHELVING_IMAGE_PENDING_UPLOAD = "shelving_image_pending_upload"
    SHELVING_IMAGE_UPLOADING = "shelving_image_uploading"
    SHELVING_OFFLOADING = "shelving_offloading"
    UNSHELVING = "unshelving"
    DELETING = "deleting"


class PowerState(IntEnum):
    """What the hypervisor says (Nova's power_state codes)."""

    NOSTATE = 0
    RUNNING = 1
    PAUSED = 3
    SHUTDOWN = 4
    CRASHED = 6
    SUSPENDED = 7


class Flavor(msgspec.Struct, frozen=True, kw_only=True):
    """A flavor as it was when the server was created; the server keeps this copy.

    Sizes as the API gives them: memory and swap in MiB, disks in GiB.
    """

    id: str
    name: str
    vcpus: int
    memory_mb: int
    root_gb: int
    ephemeral_gb: int = 0
    swap_mb: int = 0
    rxtx_factor: float = 1.0
    is_public: bool = True
    disabled: bool = False
    description: str | None = None
    extra_specs: dict[str, str] = {}

    @property
    def rescue_gb(self) -> int:
        """GiB that a disk to rescue a server from may have: the guest may fill it, as it may its own."""
        return max(self.root_gb, _RESCUE_GB)


class ImageLocation(msgspec.Struct, frozen=True, kw_only=True):
    """Where an image is in Ceph: raw, in a snapshot that can be cloned (the cluster's id, and names)."""

    fsid: str
    pool: str
    image: str
    snapshot: str


class ImageRef(msgspec.Struct, frozen=True, kw_only=True):
    """What a host must know of an image: size in bytes, minima in MiB and GiB, sha512 in hex."""

    id: str
    name: str = ""
    disk_format: str
    container_format: str = "bare"
    size: int
    virtual_size: int | None = None
    os_hash_value: str | None = None
    min_disk: int = 0
    min_ram: int = 0
    properties: dict[str, str] = {}
    location: ImageLocation | None = None
    """None: it is fetched from the image service."""
    tree_hash: str | None = None
    """disk_image/tree_hash.py, if it is known: faster to check than sha512."""


class BuildSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All that a host needs to build one server; made by the API, stored with the operation."""

    server_id: str
    name: str
    hostname: str
    project_id: str
    user_id: str
    flavor: Flavor
    image: ImageRef | None
    networks: list[RequestedNetwork] | None = None
    """None: attach nothing. Else in the order of the NICs."""
    availability_zone: str | None = None
    host: str | None = None
    """Forced by the admin."""
    scheduler_hints: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    key_name: str | None = None
    public_key: str | None = None
    user_data: str | None = None
    """base64, as the user sent it."""
    config_drive: bool = False
    admin_password: str | None = None
    """Never stored with the server: only in the build's operation, until that ends."""
    launch_index: int = 0
    security_groups: list[str] = []
    """Of the ports that the build makes: ids, or ``default``; empty means that one too."""
    boots_from_volume: bool = False
    """It has no system disk of its own, and no image: only what the volume was made of."""
    image_properties: dict[str, str] = {}
    """Of the image that its root volume was made of."""
    has_block_devices: bool = False
    """Disks were asked for one by one: the host asks the conductor for what they are."""
    ephemeral_gbs: list[int] | None = None
    """Ephemeral disks; None: the flavor's one, if it has one."""
    swap_mb: int | None = None
    """None: the flavor's."""

    @property
    def properties(self) -> dict[str, str]:
        """Of the image that it boots from, in whatever way."""
        return self.image.properties if self.image else self.image_properties

    @property
    def must_be_in_order(self) -> bool:
        """Its image says (Nova's ``os_require_quiesce``) that no copy is taken of a guest that runs unless
        its file systems are held still."""
        return self.properties.get("os_require_quiesce", "").strip().lower() in _YES

    @property
    def ephemeral_disks(self) -> list[int]:
        """GiB of each."""
        if self.ephemeral_gbs is not None:
            return self.ephemeral_gbs
        return [self.flavor.ephemeral_gb] if self.flavor.ephemeral_gb else []

    @property
    def swap_size_mb(self) -> int:
        return self.flavor.swap_mb if self.swap_mb is None else self.swap_mb


class RequestedNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """One NIC the user asked for: a network, or a port that exists; perhaps a fixed address and a tag."""

    network_id: str | None = None
    port_id: str | None = None
    fixed_ip: str | None = None
    tag: str | None = None


class TaggedDisk(msgspec.Struct, frozen=True, kw_only=True):
    """``serial``: what the disk itself says that it is; empty if it says nothing."""

    tag: str
    path: str
    serial: str = ""


class DevicePlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where a device is in its guest: on ``pci`` as 0000:00:03.0, on ``scsi`` and ``ide`` as 0:0:1:0 (its
    controller, bus, target and unit)."""

    bus: str
    address: str


class GuestMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """What the metadata service and the config drive tell a guest about itself."""

    server_id: str
    name: str
    hostname: str
    project_id: str
    availability_zone: str | None = None
    metadata: dict[str, str] = {}
    key_name: str | None = None
    public_key: str | None = None
    user_data: bytes | None = None
    admin_password: str | None = None
    launch_index: int = 0
    instance_type: str = ""
    vifs: list[Vif] = []
    image_id: str | None = None
    reservation_id: str = ""
    block_devices: dict[str, str] = {}
    """EC2's names → where the guest finds them."""
    tagged_disks: list[TaggedDisk] = []
    places: dict[str, DevicePlace] = {}
    """A NIC's MAC, a disk's serial number or its path → where it is, as the hypervisor says."""
    password: str = ""
    """What the guest said that it is; encrypted by the guest."""
    security_groups: list[str] | None = None
    """Names; None where nobody asked for them (the config drive)."""
    vendor_data: dict[str, Any] = {}
    """What the operator tells all guests."""
    vendor_data_dynamic: dict[str, Any] = {}
    """What the operator's services say of this one."""
    plug: PlugKind = "bridge"
    """How its host joins it to its networks: the host says so itself."""

    @property
    def user_data_text(self) -> str | None:
        """base64, as the user sent it."""
        return None if self.user_data is None else base64.b64encode(self.user_data).decode()


def guest_metadata(
    spec: BuildSpec, vifs: list[Vif], availability_zone: str | None, metadata: dict[str, str]
) -> GuestMetadata:
    """What a guest is told, from its spec and from what may have changed since."""
    return GuestMetadata(
        server_id=spec.server_id,
        name=spec.name,
        hostname=spec.hostname,
        project_id=spec.project_id,
        availability_zone=availability_zone,
        metadata=metadata,
        key_name=spec.key_name,
        public_key=spec.public_key,
        user_data=base64.b64decode(spec.user_data) if spec.user_data else None,
        admin_password=spec.admin_password,
        launch_index=spec.launch_index,
        instance_type=spec.flavor.name,
        vifs=vifs,
        image_id=spec.image.id if spec.image else None,
        block_devices=_block_devices(spec),
    )


_PREFIXES = {"scsi": "sd", "sata": "sd", "ide": "hd"}


def _block_devices(spec: BuildSpec) -> dict[str, str]:
    """As the hypervisor numbers them: the system disk, then the flavor's others."""
    if spec.image is None or spec.image.disk_format == "iso":
        return {}
    prefix = _PREFIXES.get(spec.properties.get("hw_disk_bus", ""), "vd")
    found = {"ami": f"{prefix}a", "root": f"/dev/{prefix}a"}
    others = [("ephemeral0", spec.flavor.ephemeral_gb), ("swap", spec.flavor.swap_mb)]
    for letter, name in zip("bc", [name for name, size in others if size], strict=False):
        found[name] = f"/dev/{prefix}{letter}"
    return found
