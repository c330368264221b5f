"""What a server's machine finds of its own disks, in which order, and what it boots from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from msgspec import structs

from kilonova.domain.errors import BuildFailed
from kilonova.virt.libvirt.disk.base import EPHEMERALS, Backend, FileSource, Name
from kilonova.virt.libvirt.folder import Instance
from kilonova.virt.libvirt.hardware import Hardware
from kilonova.virt.libvirt.rescue import Rescue
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
    for name in (*EPHEMERALS, Name.SWAP):
        found = backend.find(instance.server_id, name)
        if found is not None:
            yield Device(source=found, bus=bus, cache=cache)
    if instance.config_drive.exists():
        yield _cd(instance.config_drive, hardware)


def rescue_devices(
    backend: Backend, instance: Instance, hardware: Hardware, cache: str, how: Rescue, image: Path
) -> Iterator[Device]:
    """The same for a guest that is rescued; ``image`` is the cached file of what it boots from meanwhile."""
    other = _rescue_disk(backend, instance, cache, how, image)
    own = [one for one in own_devices(backend, instance, hardware, cache, None) if not one.cdrom]
    own = [structs.replace(one, boot=None) for one in own]
    if how.stable:
        yield from own
        yield other
    else:
        yield other
        yield from own[:1]
    if instance.rescue_config_drive.exists():
        yield _cd(instance.rescue_config_drive, hardware)


def _rescue_disk(backend: Backend, instance: Instance, cache: str, how: Rescue, image: Path) -> Device:
    if how.cdrom:
        return Device(source=FileSource(path=image, format="raw"), bus=how.bus, cdrom=True, boot=1)
    source = backend.find(instance.server_id, Name.RESCUE)
    if source is None:
        raise BuildFailed("the disk to rescue from is not there")
    return Device(source=source, bus=how.bus, cache=cache, boot=1)


def _cd(path: Path, hardware: Hardware, boot: int | None = None) -> Device:
    source = FileSource(path=path, format="raw")
    return Device(source=source, bus=hardware.cdrom_bus, cdrom=True, boot=boot)
