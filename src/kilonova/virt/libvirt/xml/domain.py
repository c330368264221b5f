"""The whole domain of a server, put together from its devices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

from kilonova.domain.network import Vif
from kilonova.domain.servers import BuildSpec
from kilonova.virt.libvirt.folder import Instance, domain_name
from kilonova.virt.libvirt.hardware import Hardware
from kilonova.virt.libvirt.xml import cpu, disk, graphics, interface, machine, memory, rng, serial
from kilonova.virt.libvirt.xml.build import element, to_text


def domain(
    spec: BuildSpec,
    vifs: list[Vif],
    instance: Instance,
    hardware: Hardware,
    *,
    virt_type: str,
    cache: str,
    agent_socket: Path,
    boot_cd: Path | None,
    pcie_ports: int = 0,
) -> str:
    """``boot_cd``: the ISO to boot from, of a server that has no system disk. A disk that the folder has
    is attached; one that it has not, isn't. ``pcie_ports``: what a q35 machine has room for."""
    devices = element(
        "devices",
        element("controller", type="usb", model="none"),
        *(machine.root_ports(pcie_ports) if hardware.is_q35 else []),
        *_disks(instance, hardware, cache, boot_cd),
        *(interface.interface(vif, hardware.vif_model) for vif in vifs),
        serial.serial(instance.console),
        serial.guest_agent(agent_socket),
        graphics.vnc(),
        graphics.video(hardware.video_model),
        memory.balloon(),
        *([rng.rng()] if hardware.rng else []),
    )
    return to_text(
        element(
            "domain",
            element("name", text=domain_name(spec.server_id)),
            element("uuid", text=spec.server_id),
            memory.memory(spec.flavor.memory_mb),
            cpu.vcpu(spec.flavor.vcpus),
            machine.sysinfo(spec.server_id),
            machine.os(hardware.machine),
            machine.features(),
            cpu.cpu(virt_type, spec.flavor.vcpus),
            machine.clock(),
            *machine.lifecycle(),
            devices,
            type=virt_type,
        )
    )


def _disks(instance: Instance, hardware: Hardware, cache: str, boot_cd: Path | None) -> Iterator[ET.Element]:
    names, bus = disk.Names(), hardware.disk_bus
    if "scsi" in (bus, hardware.cdrom_bus):
        yield disk.scsi_controller()
    if boot_cd is not None:
        yield disk.cdrom(boot_cd, bus=hardware.cdrom_bus, name=names.next(hardware.cdrom_bus), boot=1)
    if instance.disk.exists():
        order = 2 if boot_cd else 1
        yield disk.disk(
            instance.disk, format_="qcow2", bus=bus, name=names.next(bus), cache=cache, boot=order
        )
    for path in (instance.ephemeral, instance.swap):
        if path.exists():
            yield disk.disk(path, format_="raw", bus=bus, name=names.next(bus), cache=cache)
    if instance.config_drive.exists():
        name = names.next(hardware.cdrom_bus)
        yield disk.cdrom(instance.config_drive, bus=hardware.cdrom_bus, name=name)
