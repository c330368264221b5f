"""Which disks the servers of a POST get: those that it asks for (create_mapping), and those of the flavor.

What can be told wrong now is refused now, in Nova's words. Volumes that exist are promised to the server when
it is accepted (engine.accept); those that its build makes are only counted here.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import NamedTuple

from msgspec import UNSET, structs

from kilonova.api.compute import create_checks as checks
from kilonova.api.compute.create_body import ServerRequest
from kilonova.api.compute.create_mapping import invalid, mapped, with_those_of_image
from kilonova.api.compute.mapped_images import mapped_devices, refuse_mapped
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Request
from kilonova.domain.block_devices import (
    MOST,
    PREFIXES,
    BlockDevice,
    Destination,
    Source,
    attachment_id_of,
    named,
)
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest, Forbidden, NotFound, QuotaExceeded
from kilonova.domain.servers import Flavor, ImageRef
from kilonova.domain.volumes import SnapshotStatus, VolumeStatus

_GIB = 1 << 30
_MOST_LOCAL = 3
"""Disks on the host's own store (Nova's max_local_block_devices)."""
MULTIATTACH_SINCE = (2, 60)


class Devices(NamedTuple):
    """``image``: of the local root disk; None if it is a volume. ``own``: one by one, if so asked, without
    the ids that each server's have; ``fields``: what BuildSpec says of them."""

    image: ImageRef | None
    own: list[BlockDevice]
    fields: dict[str, object]


def requested(api: ComputeAPI, request: Request, asked: ServerRequest, flavor: Flavor) -> Devices:
    """BadRequest, Forbidden, as Nova says it."""
    if asked.block_device_mapping and asked.block_device_mapping_v2:
        raise BadRequest("Using different block_device_mapping syntaxes is not allowed in the same request.")
    context = request.context
    devices = mapped(asked)
    if not devices and not asked.image_ref:
        raise BadRequest("Missing imageRef attribute")
    image = _image(api, context, asked.image_ref) if asked.image_ref else None
    if image is not None and (of_image := mapped_devices(image)):
        devices = with_those_of_image(of_image, devices, asked)
    if not devices:
        assert image is not None
        checks.image_fits(context, image, flavor)
        return Devices(image, [], {})
    _check_several(asked, devices)
    _check_boot_sequence(devices)
    found = [_known(api, request, device, image) for device in devices]
    root = next(device for device in found if device.is_root)
    if root.is_volume:
        properties = _root_volume(api, context, root, flavor)
    else:
        assert image is not None
        checks.image_fits(context, image, flavor)
        properties = image.properties
    _check_local(found, flavor)
    return _devices(found, root, image, properties, flavor)


def check_quota(api: ComputeAPI, context: RequestContext, devices: Devices, servers: int) -> None:
    """BadRequest for a volume type that is none; QuotaExceeded if the builds could not make their volumes."""
    sizes: dict[str | None, list[int]] = {}
    for device in devices.own:
        if device.is_new_volume:
            sizes.setdefault(device.volume_type, []).append(device.volume_size or 0)
    for volume_type, of_one in sizes.items():
        try:
            api.volumes.check_new(context, volume_type, of_one * servers)
        except QuotaExceeded as error:  # 413 in the Block Storage API, and not here
            raise QuotaExceeded(error.message) from error


def of_one_server(devices: Devices) -> list[BlockDevice]:
    """With their own ids. A volume that exists has its attachment's."""
    found = []
    for template in devices.own:
        device = structs.replace(template, id=str(uuid.uuid4()))
        if device.volume_id is not None:
            device = structs.replace(device, attachment_id=attachment_id_of(device))
        found.append(device)
    return found


# --- what there is of it
def _known(api: ComputeAPI, request: Request, device: BlockDevice, image: ImageRef | None) -> BlockDevice:
    """With the size of what it is made of, which exists."""
    if device.source_type is Source.IMAGE:
        assert device.image is not None
        return _known_image(api, request.context, device, device.image.id, image)
    if device.volume_id is not None:
        return _known_volume(api, request, device, device.volume_id)
    if device.snapshot_id is not None:
        return _known_snapshot(api, request.context, device, device.snapshot_id)
    if device.is_volume and not device.volume_size:
        raise BadRequest("Blank volumes (source: 'blank', dest: 'volume') need to have non-zero size")
    return device


def _known_image(
    api: ComputeAPI, context: RequestContext, device: BlockDevice, image_id: str, image: ImageRef | None
) -> BlockDevice:
    if image is None or image.id != image_id:
        try:
            image = api.images.ref(context, image_id)
        except NotFound as error:
            raise invalid(f"failed to get image {image_id}.") from error
    refuse_mapped(image)
    if device.is_volume and not device.volume_size:
        raise BadRequest("Images with destination_type 'volume' need to have a non-zero size specified")
    return structs.replace(device, image=image)


def _known_volume(api: ComputeAPI, request: Request, device: BlockDevice, volume_id: str) -> BlockDevice:
    try:
        volume = api.volumes.volume(request.context, volume_id)
    except NotFound as error:
        raise invalid(f"failed to get volume {volume_id}.") from error
    if volume.multiattach and not request.at_least(*MULTIATTACH_SINCE):
        raise BadRequest("Multiattach volumes are only supported starting with compute API version 2.60.")
    takes = (VolumeStatus.AVAILABLE, VolumeStatus.IN_USE) if volume.multiattach else (VolumeStatus.AVAILABLE,)
    if volume.status not in takes:
        raise BadRequest(
            f"Invalid volume: Volume {volume_id} status must be {' or '.join(takes)}, and is {volume.status}"
        )
    return structs.replace(device, volume_size=volume.size_gb)


def _known_snapshot(
    api: ComputeAPI, context: RequestContext, device: BlockDevice, snapshot_id: str
) -> BlockDevice:
    try:
        snapshot = api.volumes.snapshot(context, snapshot_id)
    except NotFound as error:
        raise invalid(f"failed to get snapshot {snapshot_id}.") from error
    if snapshot.status != SnapshotStatus.AVAILABLE:
        raise invalid(f"snapshot {snapshot_id} is {snapshot.status}.")
    size = device.volume_size or snapshot.size_gb
    if size < snapshot.size_gb:
        raise invalid(f"the volume would be smaller than its snapshot, which has {snapshot.size_gb} GiB")
    return structs.replace(device, volume_size=size)


def _root_volume(
    api: ComputeAPI, context: RequestContext, root: BlockDevice, flavor: Flavor
) -> dict[str, str]:
    """The properties of what it was, or will be, made of, for which the flavor has the memory."""
    if root.image is not None:
        if root.image.min_disk > (root.volume_size or 0):
            raise BadRequest(
                "Volume is smaller than the minimum size specified in image metadata. Volume size is "
                f"{(root.volume_size or 0) * _GIB} bytes, minimum size is {root.image.min_disk * _GIB} bytes."
            )
        checks.memory_fits(root.image.min_ram, flavor)
        return checks.config_drive_known(root.image.properties)
    if root.source_type is Source.BLANK:
        return {}
    source = root.volume_id or root.snapshot_id or ""
    if root.volume_id is not None:
        found = api.volumes.volume(context, source)
    else:
        found = api.volumes.snapshot(context, source)
    if not found.bootable:
        raise BadRequest(f"Block Device {source} is not bootable.")
    least = found.image_metadata.get("min_ram", "0")
    checks.memory_fits(int(least) if least.isdecimal() else 0, flavor)
    wishes = ("hw_", "os_", "img_")
    properties = {name: value for name, value in found.image_metadata.items() if name.startswith(wishes)}
    return checks.config_drive_known(properties)


def _image(api: ComputeAPI, context: RequestContext, image_id: str) -> ImageRef:
    try:
        return api.images.ref(context, image_id)
    except NotFound as error:
        raise BadRequest("Can not find requested image") from error


# --- whether it fits together
def _check_several(asked: ServerRequest, devices: Sequence[BlockDevice]) -> None:
    most = asked.min_count if asked.max_count is UNSET else asked.max_count
    if int(most) > 1 and any(device.source_type is Source.VOLUME for device in devices):
        raise BadRequest("Cannot attach one or more volumes to multiple instances")
    tags = [device.tag for device in devices if device.tag]
    if len(tags) != len(set(tags)):
        raise invalid("a tag is given to more than one disk")
    volumes = [device.volume_id for device in devices if device.volume_id]
    if len(volumes) != len(set(volumes)):
        raise invalid("a volume is given more than once")


def _check_boot_sequence(devices: Sequence[BlockDevice]) -> None:
    """The boot indexes are 0, 1, … without a gap, each once; there is at least one."""
    indexes = sorted(device.boot_index for device in devices if device.boot_index is not None)
    if not indexes or indexes != list(range(len(indexes))):
        raise invalid(
            "Boot sequence for the instance and image/block device mapping combination is not valid."
        )


def _check_local(devices: Sequence[BlockDevice], flavor: Flavor) -> None:
    """Ephemeral disks and swap are within the flavor."""
    sizes = [device.volume_size or flavor.ephemeral_gb for device in devices if device.is_ephemeral]
    if sum(sizes) > flavor.ephemeral_gb:
        raise BadRequest(
            "Ephemeral disks requested are larger than the instance type allows. If no size is given in "
            "one block device mapping, flavor ephemeral size will be used."
        )
    if any(size == 0 for size in sizes):
        raise invalid("an ephemeral disk needs a flavor that has one")
    swap = [device for device in devices if device.is_swap]
    if len(swap) > 1:
        raise invalid("More than one swap drive requested.")
    if swap and (swap[0].volume_size or 0) > flavor.swap_mb:
        raise BadRequest("Swap drive requested is larger than instance type allows.")


def _devices(
    asked: list[BlockDevice],
    root: BlockDevice,
    image: ImageRef | None,
    properties: dict[str, str],
    flavor: Flavor,
) -> Devices:
    """All disks of the machine, those of its flavor too, with their names."""
    devices = list(asked)
    if flavor.ephemeral_gb and not any(device.is_ephemeral for device in devices):
        devices.append(_blank(flavor.ephemeral_gb))
    if flavor.swap_mb and not any(device.is_swap for device in devices):
        devices.append(_blank(flavor.swap_mb, "swap"))
    devices = [_sized(device, flavor) for device in devices]
    if sum(not device.is_volume for device in devices) > _MOST_LOCAL:
        raise invalid("You specified more local devices than the limit allows")
    bus = properties.get("hw_disk_bus", "virtio")
    devices = named(devices, bus if bus in PREFIXES else "virtio")
    if any(device.device_name == "/dev/" for device in devices):
        raise Forbidden(
            f"The maximum allowed number of disk devices ({MOST}) to attach to a single instance has been "
            "exceeded."
        )
    fields: dict[str, object] = {
        "boots_from_volume": root.is_volume,
        "image_properties": properties if root.is_volume else {},
        "ephemeral_gbs": [device.volume_size for device in devices if device.is_ephemeral],
        "swap_mb": next((device.volume_size for device in devices if device.is_swap), 0),
    }
    implied = all(not device.is_volume and not device.tag and not device.disk_bus for device in devices)
    fields["has_block_devices"] = not implied
    return Devices(None if root.is_volume else image, [] if implied else devices, fields)


def _sized(device: BlockDevice, flavor: Flavor) -> BlockDevice:
    if device.is_ephemeral or device.is_swap:
        usual = flavor.swap_mb if device.is_swap else flavor.ephemeral_gb
        return structs.replace(device, volume_size=device.volume_size or usual)
    return device


def _blank(size: int, guest_format: str | None = None) -> BlockDevice:
    return BlockDevice(
        id="",
        source_type=Source.BLANK,
        destination_type=Destination.LOCAL,
        volume_size=size,
        guest_format=guest_format,
        delete_on_termination=True,
    )
