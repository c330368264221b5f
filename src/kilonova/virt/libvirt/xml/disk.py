"""Disks and CDs."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

from kilonova.virt.libvirt.xml.build import element

_PREFIXES = {"virtio": "vd", "scsi": "sd", "sata": "sd", "ide": "hd"}


class Names:
    """Hands out vda, vdb, …, hda, …: one row of letters for each prefix."""

    def __init__(self) -> None:
        self._used: dict[str, int] = {}

    def next(self, bus: str) -> str:
        prefix = _PREFIXES[bus]
        index = self._used.get(prefix, 0)
        self._used[prefix] = index + 1
        return prefix + "abcdefghijklmnopqrstuvwxyz"[index]


def disk(path: Path, *, format_: str, bus: str, name: str, cache: str, boot: int | None = None) -> ET.Element:
    return element(
        "disk",
        element("driver", name="qemu", type=format_, cache=cache, discard="unmap"),
        element("source", file=str(path)),
        element("target", dev=name, bus=bus),
        *_boot(boot),
        type="file",
        device="disk",
    )


def cdrom(path: Path, *, bus: str, name: str, boot: int | None = None) -> ET.Element:
    return element(
        "disk",
        element("driver", name="qemu", type="raw"),
        element("source", file=str(path)),
        element("target", dev=name, bus=bus),
        element("readonly"),
        *_boot(boot),
        type="file",
        device="cdrom",
    )


def scsi_controller() -> ET.Element:
    return element("controller", type="scsi", model="virtio-scsi")


def _boot(order: int | None) -> list[ET.Element]:
    return [] if order is None else [element("boot", order=order)]
