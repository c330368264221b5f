"""Disks and CDs."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree import ElementTree as ET

import msgspec

from kilonova.domain.block_devices import free_name
from kilonova.virt.libvirt.disk.base import FileSource, RbdSource, Source
from kilonova.virt.libvirt.xml import network_disk
from kilonova.virt.libvirt.xml.build import element


class Names:
    """Hands out vda, vdb, …, hda, …: one row of letters for each prefix."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)

    def next(self, bus: str) -> str:
        name = free_name(self._taken, bus)
        self._taken.add(name)
        return name


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One disk or CD of a domain. ``boot``: its place in the order in which they are tried."""

    source: Source
    bus: str
    cache: str = ""
    boot: int | None = None
    cdrom: bool = False


def device(one: Device, name: str) -> ET.Element:
    driver = {"name": "qemu", "type": one.source.format}
    if not one.cdrom:
        # The cache in front of Ceph is QEMU's own; what the guest flushed is safe in each of them.
        in_ceph = isinstance(one.source, RbdSource)
        driver |= {"cache": "writeback" if in_ceph else one.cache, "discard": "unmap"}
    return element(
        "disk",
        element("driver", **driver),
        _source(one.source),
        element("target", dev=name, bus=one.bus),
        *([element("readonly")] if one.cdrom else []),
        *([] if one.boot is None else [element("boot", order=one.boot)]),
        type="file" if isinstance(one.source, FileSource) else "network",
        device="cdrom" if one.cdrom else "disk",
    )


def _source(source: Source) -> ET.Element:
    match source:
        case FileSource(path=path):
            return element("source", file=str(path))
        case RbdSource() as rbd:
            return network_disk.rbd(rbd.pool, rbd.image, rbd.monitors, rbd.user, rbd.secret)


def scsi_controller() -> ET.Element:
    return element("controller", type="scsi", model="virtio-scsi")


def name_of(domain: str, source: Source) -> str | None:
    """What the disk of that source is called (vda), in a domain's document as libvirt wrote it."""
    wanted = _source(source).attrib
    for one in ET.fromstring(domain).iterfind("./devices/disk"):  # noqa: S314 - libvirt wrote it
        found, target = one.find("source"), one.find("target")
        if found is not None and target is not None and wanted.items() <= found.attrib.items():
            return target.get("dev")
    return None
