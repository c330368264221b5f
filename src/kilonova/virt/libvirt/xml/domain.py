"""The whole domain of a server, put together from its devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from kilonova.domain.network import Vif
from kilonova.domain.servers import BuildSpec
from kilonova.virt.libvirt.folder import Instance, domain_name
from kilonova.virt.libvirt.hardware import Hardware
from kilonova.virt.libvirt.xml import cpu, disk, graphics, interface, machine, memory, rng, serial
from kilonova.virt.libvirt.xml.build import element, to_text
from kilonova.virt.libvirt.xml.disk import Device


def domain(
    spec: BuildSpec,
    vifs: list[Vif],
    instance: Instance,
    hardware: Hardware,
    *,
    disks: Sequence[Device],
    virt_type: str,
    agent_socket: Path,
    pcie_ports: int = 0,
) -> str:
    """``disks`` in the order of their names. ``pcie_ports``: what a q35 machine has room for."""
    devices = element(
        "devices",
        element("controller", type="usb", model="none"),
        *(machine.root_ports(pcie_ports) if hardware.is_q35 else []),
        *_disks(disks),
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


def _disks(disks: Sequence[Device]) -> Iterator[ET.Element]:
    names = disk.Names()
    if any(one.bus == "scsi" for one in disks):
        yield disk.scsi_controller()
    for one in disks:
        yield disk.device(one, names.next(one.bus))
