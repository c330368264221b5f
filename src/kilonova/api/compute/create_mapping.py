"""block_device_mapping of POST /servers, in both its forms: what it says of each disk, or is refused for."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET, structs

from kilonova.api.compute.create_body import Device, LegacyDevice, ServerRequest
from kilonova.domain.block_devices import PREFIXES, BlockDevice, Destination, Source
from kilonova.domain.errors import BadRequest
from kilonova.domain.servers import ImageRef

_ROOT = "vda"
"""What the old form of the mapping calls the disk to boot from."""


def mapped(asked: ServerRequest) -> list[BlockDevice]:
    """The disks one by one; empty if the request says nothing of them that is not so anyway."""
    if asked.block_device_mapping:
        return _of_legacy(asked)
    return [_of_v2(device, asked) for device in asked.block_device_mapping_v2 if not device.no_device]


def with_those_of_image(
    of_image: Sequence[Device], devices: Sequence[BlockDevice], asked: ServerRequest
) -> list[BlockDevice]:
    """Those of the image, and of the request what is not the image itself. A disk that the request names is
    the request's."""
    given = asked.block_device_mapping_v2 or asked.block_device_mapping
    own = {(device.device_name or "").removeprefix("/dev/") for device in given}
    names = [(device.device_name or "").removeprefix("/dev/") for device in of_image]
    kept = [_of_v2(device, asked) for device, name in zip(of_image, names, strict=True) if name not in own]
    is_image = [device.source_type is Source.IMAGE and not device.is_volume for device in devices]
    return kept + [device for device, no in zip(devices, is_image, strict=True) if not no]


def _of_v2(device: Device, asked: ServerRequest) -> BlockDevice:
    if device.source_type is UNSET:
        raise invalid("Some required fields are missing")
    source = Source(device.source_type)
    if source is Source.BLANK and device.uuid:
        raise invalid("Invalid device UUID.")
    if source is not Source.BLANK and not device.uuid:
        raise invalid("Missing device UUID.")
    usual = Destination.VOLUME if source in (Source.VOLUME, Source.SNAPSHOT) else Destination.LOCAL
    where = usual if device.destination_type is UNSET else Destination(device.destination_type)
    boot_index = None if device.boot_index is None or int(device.boot_index) < 0 else int(device.boot_index)
    if where is Destination.LOCAL:
        _check_v2_local(device, source, boot_index, asked)
    elif device.volume_type and source is Source.VOLUME:
        raise invalid("Specifying volume type to existing volume is not supported.")
    elif asked.image_ref and boot_index != 0 and (device.device_name or "").removeprefix("/dev/") == _ROOT:
        raise BadRequest(f"The volume cannot be assigned the same device name as the root device {_ROOT}")
    if device.disk_bus and device.disk_bus not in PREFIXES:
        raise BadRequest(
            f"Block Device Mapping is invalid: The provided disk bus {device.disk_bus} is not valid."
        )
    if (device.device_type or "disk") != "disk":
        raise invalid(f"the device type {device.device_type} is not available here")
    return BlockDevice(
        id="",
        source_type=source,
        destination_type=where,
        image=_named_image(device.uuid) if source is Source.IMAGE else None,
        snapshot_id=device.uuid if source is Source.SNAPSHOT else None,
        volume_id=device.uuid if source is Source.VOLUME else None,
        volume_size=int(device.volume_size) if device.volume_size else None,
        volume_type=device.volume_type or None,
        boot_index=boot_index,
        disk_bus=device.disk_bus or None,
        guest_format=device.guest_format or None,
        tag=device.tag,
        delete_on_termination=bool(device.delete_on_termination),
    )


def _check_v2_local(device: Device, source: Source, boot_index: int | None, asked: ServerRequest) -> None:
    if device.volume_type:
        raise invalid("Specifying a volume_type with destination_type=local is not supported.")
    if source in (Source.VOLUME, Source.SNAPSHOT):
        raise invalid(f"Mapping {source} to local is not supported.")
    if source is Source.IMAGE and (boot_index != 0 or device.uuid != asked.image_ref):
        raise invalid("Mapping image to local is not supported.")
    if device.disk_bus:
        raise invalid("the bus of local disks is the image's, hw_disk_bus")
    if source is Source.BLANK and device.guest_format not in (None, "", "swap", "ext4"):
        raise invalid(f"the format {device.guest_format} is not available here: disks are ext4 or swap")


def _of_legacy(asked: ServerRequest) -> list[BlockDevice]:
    """The form of the first API, where names say what is booted from: ``vda``, or without an image the first
    volume."""
    found = [
        (_legacy_name(item), _of_legacy_item(item))
        for item in asked.block_device_mapping
        if not item.no_device
    ]
    volumes = [index for index, (_, device) in enumerate(found) if device.is_volume]
    root = next((index for index in volumes if found[index][0] == _ROOT), None)
    if root is None and not asked.image_ref and volumes:
        root = volumes[0]
    devices = [
        structs.replace(device, boot_index=0) if index == root else device
        for index, (_, device) in enumerate(found)
    ]
    if root is None and asked.image_ref:
        devices.insert(0, _local_root(asked.image_ref))
    return devices


def _legacy_name(item: LegacyDevice) -> str:
    return (item.device_name or "").removeprefix("/dev/")


def _of_legacy_item(item: LegacyDevice) -> BlockDevice:
    blank = (item.virtual_name or "") == "swap" or (item.virtual_name or "").startswith("ephemeral")
    if not blank and not item.snapshot_id and not item.volume_id:
        raise invalid("Unrecognized legacy format.")
    source = Source.BLANK if blank else Source.SNAPSHOT if item.snapshot_id else Source.VOLUME
    return BlockDevice(
        id="",
        source_type=source,
        destination_type=Destination.LOCAL if blank else Destination.VOLUME,
        snapshot_id=item.snapshot_id if source is Source.SNAPSHOT else None,
        volume_id=item.volume_id if source is Source.VOLUME else None,
        volume_size=int(item.volume_size) if item.volume_size else None,
        guest_format="swap" if item.virtual_name == "swap" else None,
        delete_on_termination=blank or bool(item.delete_on_termination),
    )


def _local_root(image_id: str) -> BlockDevice:
    return BlockDevice(
        id="",
        source_type=Source.IMAGE,
        destination_type=Destination.LOCAL,
        image=_named_image(image_id),
        boot_index=0,
        delete_on_termination=True,
    )


def _named_image(image_id: str) -> ImageRef:
    """An image of which no more is known yet."""
    return ImageRef(id=image_id, disk_format="", size=0)


def invalid(details: str) -> BadRequest:
    return BadRequest(f"Block Device Mapping is Invalid: {details}")
