"""How a guest is rescued: from which device, and whether its own disks stay in their places."""

from __future__ import annotations

import msgspec

from kilonova.domain.errors import BuildAborted
from kilonova.domain.servers import ImageRef
from kilonova.virt.libvirt.hardware import DISK_BUSES, Hardware


class Rescue(msgspec.Struct, frozen=True, kw_only=True):
    """``stable``: the guest's disks are called what they always are, and the other one comes after them."""

    image: ImageRef
    cdrom: bool
    bus: str
    stable: bool


def way_of_rescue(image: ImageRef, hardware: Hardware) -> Rescue:
    """By the image's ``hw_rescue_device`` and ``hw_rescue_bus``. BuildAborted names what cannot be."""
    wishes = image.properties
    device = wishes.get("hw_rescue_device", "cdrom" if image.disk_format == "iso" else "disk")
    if device not in ("disk", "cdrom"):
        raise BuildAborted(f"the image asks for hw_rescue_device={device!r}; here are disk and cdrom")
    cdrom = device == "cdrom"
    if cdrom and image.disk_format == "qcow2":
        raise BuildAborted("the image asks to be a CD, which a qcow2 cannot be")
    usual = hardware.cdrom_bus if cdrom else hardware.disk_bus
    bus = wishes.get("hw_rescue_bus", usual)
    if bus not in DISK_BUSES or (cdrom and bus == "virtio") or (hardware.is_q35 and bus == "ide"):
        raise BuildAborted(f"the image asks for hw_rescue_bus={bus!r}, which this machine has not")
    stable = cdrom or "hw_rescue_device" in wishes or "hw_rescue_bus" in wishes
    return Rescue(image=image, cdrom=cdrom, bus=bus, stable=stable)
