"""The disks that were asked for, one BlockDevice each: where their bytes are from, and what a guest sees.

Names and values are those of the Compute API's block_device_mapping_v2. A server that was asked for with an
image alone has no such records: its disks follow from its flavor.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec
from msgspec import structs

from kilonova.domain.servers import GuestMetadata, ImageRef, TaggedDisk
from kilonova.domain.volumes import Connection

PREFIXES = {"virtio": "vd", "scsi": "sd", "sata": "sd", "usb": "sd", "ide": "hd"}
"""Of the names of disks, by their bus."""
MOST = 26
"""Disks of one prefix: a letter each."""


class Source(StrEnum):
    BLANK = "blank"
    IMAGE = "image"
    SNAPSHOT = "snapshot"
    VOLUME = "volume"


class Destination(StrEnum):
    LOCAL = "local"
    VOLUME = "volume"


class BlockDevice(msgspec.Struct, frozen=True, kw_only=True):
    """One disk. Of one that a build is to make, the volume's id follows from ``id``; see volume_id_of()."""

    id: str
    source_type: Source
    destination_type: Destination
    image: ImageRef | None = None
    """What a new volume is made of."""
    snapshot_id: str | None = None
    volume_id: str | None = None
    attachment_id: str | None = None
    """Set while the volume is promised to the server, or the server has it."""
    volume_size: int | None = None
    """GiB; MiB of a swap disk."""
    volume_type: str | None = None
    boot_index: int | None = None
    """0: the root disk. None: not booted from."""
    device_name: str = ""
    """``/dev/vda``."""
    disk_bus: str | None = None
    """None: as the image says."""
    device_type: str = "disk"
    guest_format: str | None = None
    tag: str | None = None
    delete_on_termination: bool = False

    @property
    def is_volume(self) -> bool:
        return self.destination_type is Destination.VOLUME

    @property
    def is_new_volume(self) -> bool:
        """Whether the server's build makes it."""
        return self.is_volume and self.source_type is not Source.VOLUME

    @property
    def is_root(self) -> bool:
        return self.boot_index == 0

    @property
    def is_swap(self) -> bool:
        return not self.is_volume and self.source_type is Source.BLANK and self.guest_format == "swap"

    @property
    def is_ephemeral(self) -> bool:
        return not self.is_volume and self.source_type is Source.BLANK and self.guest_format != "swap"


class AttachedVolume(msgspec.Struct, frozen=True, kw_only=True):
    """A volume as a host must know it: what the guest sees, and the way to the bytes."""

    volume_id: str
    connection: Connection
    device_name: str
    """``vdb``."""
    disk_bus: str
    device_type: str = "disk"
    boot_index: int | None = None
    shareable: bool = False
    """Other guests may have it too."""
    read_only: bool = False


def volume_id_of(device: BlockDevice) -> str:
    """Of the volume that is made for it, whoever is asked how often."""
    return str(uuid.uuid5(uuid.UUID(device.id), "volume"))


def attachment_id_of(device: BlockDevice) -> str:
    return str(uuid.uuid5(uuid.UUID(device.id), "attachment"))


def bus_of(device: BlockDevice, default: str) -> str:
    return device.disk_bus or default


def named(devices: Sequence[BlockDevice], bus: str) -> list[BlockDevice]:
    """With their names, in the order in which a machine has them: the root, ephemeral disks, swap, volumes.

    Users' own names are no names of ours: only the machine knows what its guest calls a disk.
    """
    order = sorted(devices, key=lambda device: (not device.is_root, device.is_volume, device.is_swap))
    found: list[BlockDevice] = []
    for device in order:
        name = free_name([other.device_name for other in found], bus_of(device, bus))
        found.append(structs.replace(device, device_name=f"/dev/{name}"))
    return found


def free_name(taken: Iterable[str], bus: str) -> str:
    """``vdb``; empty if there is none left."""
    prefix, used = PREFIXES[bus], {name.removeprefix("/dev/") for name in taken}
    letters = "abcdefghijklmnopqrstuvwxyz"
    return next((prefix + letter for letter in letters if prefix + letter not in used), "")


def tagged(devices: Iterable[BlockDevice]) -> list[TaggedDisk]:
    """What guests are told of disks with a tag."""
    return [
        TaggedDisk(tag=device.tag, path=device.device_name, serial=device.volume_id or "")
        for device in devices
        if device.tag
    ]


def with_disks(metadata: GuestMetadata, devices: Sequence[BlockDevice]) -> GuestMetadata:
    """What a guest is told, with what it finds of disks that were asked for one by one."""
    named_disks = ec2_names(devices) if any(device.is_root for device in devices) else metadata.block_devices
    extra = {} if named_disks is not metadata.block_devices else ec2_names(devices)
    return structs.replace(metadata, block_devices=named_disks | extra, tagged_disks=tagged(devices))


def ec2_names(devices: Sequence[BlockDevice]) -> dict[str, str]:
    """EC2's names of the disks → where the guest finds them."""
    found: dict[str, str] = {}
    for device in devices:
        if device.is_root:
            found |= {"ami": device.device_name.removeprefix("/dev/"), "root": device.device_name}
        elif device.is_swap:
            found["swap"] = device.device_name
    ephemeral = [device.device_name for device in devices if device.is_ephemeral]
    volumes = sorted(device.device_name for device in devices if device.is_volume)
    found |= {f"ephemeral{number}": name for number, name in enumerate(ephemeral)}
    return found | {f"ebs{number}": name for number, name in enumerate(volumes)}
