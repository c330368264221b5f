"""A volume as a disk of a guest: where its bytes are, as its connection says.

It is known again by its id: in the name of its file or image, or of its target; else by its serial number.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec

from kilonova.domain.block_devices import AttachedVolume
from kilonova.domain.volumes import FileConnection, IscsiConnection, RbdConnection
from kilonova.virt.libvirt.host import supports_direct_reads
from kilonova.virt.libvirt.xml import network_disk
from kilonova.virt.libvirt.xml.build import element

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_NAMED = re.compile(f"volume-({_UUID})")
_A_VOLUME = re.compile(f"volume-({_UUID})(?:/[0-9]+)?$")
_ISCSI_PORT = "3260"


class VolumeDevice(msgspec.Struct, frozen=True, kw_only=True):
    """``secret``: libvirt's, that the way to it needs; ``initiator``: this host's name for iSCSI."""

    volume: AttachedVolume
    secret: str | None = None
    initiator: str = ""


def device(one: VolumeDevice, name: str) -> ET.Element:
    volume = one.volume
    boot = [] if volume.boot_index is None else [element("boot", order=volume.boot_index + 1)]
    return element(
        "disk",
        element("driver", name="qemu", type="raw", cache=_cache(volume), discard="unmap"),
        _source(one),
        element("target", dev=name, bus=volume.disk_bus),
        element("serial", text=volume.volume_id),
        *([element("shareable")] if volume.shareable else []),
        *([element("readonly")] if volume.read_only else []),
        *boot,
        type="file" if isinstance(volume.connection, FileConnection) else "network",
        device="disk",
    )


def target(one: VolumeDevice) -> ET.Element:
    """What a copy is written to."""
    is_file = isinstance(one.volume.connection, FileConnection)
    return element(
        "disk",
        element("driver", name="qemu", type="raw"),
        _source(one),
        type="file" if is_file else "network",
    )


def find(domain: str, volume_id: str) -> ET.Element | None:
    """The volume's disk in a domain's document, as libvirt wrote it."""
    return next((one for one in _all(domain) if _volume_id(one) == volume_id), None)


def ids(domain: str) -> set[str]:
    return {found for one in _all(domain) if (found := _volume_id(one)) is not None}


def mirror_of(disk: ET.Element) -> str:
    """Where QEMU copies it to now: a path, or a name in its store. Empty: nowhere."""
    mirror = disk.find("mirror")
    return "" if mirror is None else _where(mirror)


def swaps_to(disk: ET.Element) -> str | None:
    """The volume that it is being copied to; None if that is not so: a snapshot is no volume."""
    found = _A_VOLUME.search(mirror_of(disk))
    return None if found is None else found[1]


def is_copied(disk: ET.Element) -> bool:
    """Both have the same, and get the same."""
    mirror = disk.find("mirror")
    return mirror is not None and mirror.get("ready") == "yes"


def swapping(domain: str) -> list[str]:
    """The names of disks that are being copied to volumes."""
    return [name_of(one) for one in _all(domain) if swaps_to(one) is not None]


def named(domain: str, name: str) -> ET.Element | None:
    return next((one for one in _all(domain) if name_of(one) == name), None)


def names(domain: str) -> set[str]:
    """Of all disks and CDs: vda, …"""
    return {name_of(one) for one in _all(domain)}


def name_of(disk: ET.Element) -> str:
    found = disk.find("target")
    return "" if found is None else found.get("dev", "")


def _all(domain: str) -> list[ET.Element]:
    root = ET.fromstring(domain)  # noqa: S314 - libvirt wrote it
    return root.findall("./devices/disk")


def _volume_id(disk: ET.Element) -> str | None:
    found = _NAMED.findall(_where(disk))
    return found[-1] if found else disk.findtext("serial") or None


def _where(place: ET.Element) -> str:
    source = place.find("source")
    return "" if source is None else source.get("file") or source.get("name") or ""


def _cache(volume: AttachedVolume) -> str:
    """What the guest flushed is safe in each of them. RBD's cache is QEMU's own, and no other guest's; of a
    file the host's is left out where that can be."""
    match volume.connection:
        case FileConnection(path=path):
            return "none" if supports_direct_reads(Path(path)) else "writeback"
        case RbdConnection():
            return "none" if volume.shareable else "writeback"
        case IscsiConnection():
            return "none"


def _source(one: VolumeDevice) -> ET.Element:
    match one.volume.connection:
        case FileConnection(path=path):
            return element("source", file=path)
        case RbdConnection() as rbd:
            return network_disk.rbd(rbd.pool, rbd.image, rbd.monitors, rbd.user, one.secret)
        case IscsiConnection() as iscsi:
            return element(
                "source",
                network_disk.host(iscsi.portal, _ISCSI_PORT),
                *network_disk.auth(iscsi.username, "iscsi", one.secret),
                element("initiator", element("iqn", name=one.initiator)),
                protocol="iscsi",
                name=f"{iscsi.iqn}/{iscsi.lun}",
            )
