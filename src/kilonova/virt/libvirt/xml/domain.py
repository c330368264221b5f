"""The whole domain of a server, put together from its devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from kilonova.domain.network import Vif
from kilonova.domain.servers import BuildSpec
from kilonova.virt.libvirt.folder import Instance, domain_name
from kilonova.virt.libvirt.hardware import Hardware
from kilonova.virt.libvirt.xml import cpu, disk, graphics, interface, machine, memory, rng, serial, volume
from kilonova.virt.libvirt.xml.build import element, to_text
from kilonova.virt.libvirt.xml.disk import Device
from kilonova.virt.libvirt.xml.volume import VolumeDevice


def domain(
    spec: BuildSpec,
    vifs: list[Vif],
    instance: Instance,
    hardware: Hardware,
    *,
    disks: Sequence[Device],
    volumes: Sequence[VolumeDevice] = (),
    virt_type: str,
    agent_socket: Path,
    pcie_ports: int = 0,
) -> str:
    """``disks`` in the order of their names. ``pcie_ports``: what a q35 machine has room for."""
    devices = element(
        "devices",
        element("controller", type="usb", model="none"),
        *(machine.root_ports(pcie_ports) if hardware.is_q35 else []),
        *_disks(disks, volumes),
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


def _disks(disks: Sequence[Device], volumes: Sequence[VolumeDevice]) -> Iterator[ET.Element]:
    """The root first, wherever it is: a guest counts its disks in this order."""
    names = disk.Names(one.volume.device_name for one in volumes)
    if "scsi" in {one.bus for one in disks} | {one.volume.disk_bus for one in volumes}:
        yield disk.scsi_controller()
    roots = [one for one in volumes if one.volume.boot_index == 0]
    others = [one for one in volumes if one.volume.boot_index != 0]
    for one in roots:
        yield volume.device(one, one.volume.device_name)
    for own in disks:
        yield disk.device(own, names.next(own.bus))
    for one in sorted(others, key=lambda other: other.volume.device_name):
        yield volume.device(one, one.volume.device_name)
