"""A volume as a disk of a guest: where its bytes are, as its connection says.

It is known again by its id: in the name of its file or image, or of its target; else by its serial number.
No password and no key is in a document: those are libvirt's secrets, of which it has the ids.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec

from kilonova.domain.block_devices import AttachedVolume
from kilonova.domain.volumes import FileConnection, IscsiConnection, RbdConnection
from kilonova.virt.libvirt.host import supports_direct_reads
from kilonova.virt.libvirt.xml.build import element

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_NAMED = re.compile(f"volume-({_UUID})")
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


def names(domain: str) -> set[str]:
    """Of all disks and CDs: vda, …"""
    return {name_of(one) for one in _all(domain)}


def name_of(disk: ET.Element) -> str:
    found = disk.find("target")
    return "" if found is None else found.get("dev", "")


def mirror_of(disk: ET.Element) -> str:
    """Where QEMU copies it to now: a path, or a name in its store. Empty: nowhere."""
    source = disk.find("mirror/source")
    return "" if source is None else source.get("file") or source.get("name") or ""


def _all(domain: str) -> list[ET.Element]:
    root = ET.fromstring(domain)  # noqa: S314 - libvirt wrote it
    return root.findall("./devices/disk")


def _volume_id(disk: ET.Element) -> str | None:
    source = disk.find("source")
    where = "" if source is None else source.get("file") or source.get("name") or ""
    named = _NAMED.findall(where)
    return named[-1] if named else disk.findtext("serial") or None


def _cache(volume: AttachedVolume) -> str:
    """What the guest flushed is safe in each of them. RBD's cache is QEMU's own; of a file the host's is left
    out where that can be."""
    match volume.connection:
        case FileConnection(path=path):
            return "none" if supports_direct_reads(Path(path)) else "writeback"
        case RbdConnection():
            return "writeback"
        case IscsiConnection():
            return "none"


def _source(one: VolumeDevice) -> ET.Element:
    match one.volume.connection:
        case FileConnection(path=path):
            return element("source", file=path)
        case RbdConnection() as rbd:
            return element(
                "source",
                *(_host(monitor, "6789") for monitor in rbd.monitors),
                *_auth(rbd.user, "ceph", one.secret),
                protocol="rbd",
                name=f"{rbd.pool}/{rbd.image}",
            )
        case IscsiConnection() as iscsi:
            return element(
                "source",
                _host(iscsi.portal, _ISCSI_PORT),
                *_auth(iscsi.username, "iscsi", one.secret),
                element("initiator", element("iqn", name=one.initiator)),
                protocol="iscsi",
                name=f"{iscsi.iqn}/{iscsi.lun}",
            )


def _host(address: str, usual_port: str) -> ET.Element:
    name, colon, port = address.rpartition(":")
    if not colon or address.endswith("]"):
        name, port = address, usual_port
    return element("host", name=name.strip("[]"), port=port)


def _auth(user: str, kind: str, secret: str | None) -> list[ET.Element]:
    if secret is None:
        return []
    return [element("auth", element("secret", type=kind, uuid=secret), username=user)]
