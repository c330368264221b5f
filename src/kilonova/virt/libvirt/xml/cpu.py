"""Virtual CPUs."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from kilonova.virt.libvirt.xml.build import element


def vcpu(count: int) -> ET.Element:
    return element("vcpu", text=count)


def cpu(virt_type: str, count: int) -> ET.Element:
    """Under KVM the host's CPU; under emulation the plain qemu64, with which guests boot fastest."""
    topology = element("topology", sockets=count, cores=1, threads=1)
    if virt_type == "kvm":
        return element("cpu", topology, mode="host-model", check="partial")
    return element(
        "cpu", element("model", text="qemu64"), topology, mode="custom", match="exact", check="none"
    )
