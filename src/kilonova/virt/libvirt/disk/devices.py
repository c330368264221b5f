"""What a server's machine finds of its own disks, in which order, and what it boots from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kilonova.virt.libvirt.disk.base import Backend, FileSource, Name
from kilonova.virt.libvirt.folder import Instance
from kilonova.virt.libvirt.hardware import Hardware
from kilonova.virt.libvirt.xml.disk import Device


def own_devices(
    backend: Backend, instance: Instance, hardware: Hardware, cache: str, boot_cd: Path | None
) -> Iterator[Device]:
    """A disk that is there is attached; one that is not, isn't. ``boot_cd``: the ISO to boot from, of a
    server that has no system disk."""
    bus, order = hardware.disk_bus, iter((1, 2))
    if boot_cd is not None:
        yield _cd(boot_cd, hardware, next(order))
    system = backend.find(instance.server_id, Name.SYSTEM)
    if system is not None:
        yield Device(source=system, bus=bus, cache=cache, boot=next(order))
    for name in (Name.EPHEMERAL, Name.SWAP):
        found = backend.find(instance.server_id, name)
        if found is not None:
            yield Device(source=found, bus=bus, cache=cache)
    if instance.config_drive.exists():
        yield _cd(instance.config_drive, hardware)


def _cd(path: Path, hardware: Hardware, boot: int | None = None) -> Device:
    source = FileSource(path=path, format="raw")
    return Device(source=source, bus=hardware.cdrom_bus, cdrom=True, boot=boot)
