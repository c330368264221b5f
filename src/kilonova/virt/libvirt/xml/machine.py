"""The machine around the CPU: board, firmware, clock, what happens when it stops, and how it calls itself."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import kilonova
from kilonova.virt.libvirt.xml.build import element


def os(machine: str) -> ET.Element:
    return element(
        "os",
        element("type", text="hvm", arch="x86_64", machine=machine),
        element("smbios", mode="sysinfo"),
    )


def root_ports(count: int) -> list[ET.Element]:
    """Of a q35 machine: each takes one device, now or while it runs."""
    if not count:
        return []
    ports = [element("controller", type="pci", model="pcie-root-port") for _ in range(count)]
    return [element("controller", type="pci", model="pcie-root"), *ports]


def features() -> ET.Element:
    """ACPI carries the power button: a soft stop needs it."""
    return element("features", element("acpi"), element("apic"))


def clock() -> ET.Element:
    return element(
        "clock",
        element("timer", name="pit", tickpolicy="delay"),
        element("timer", name="rtc", tickpolicy="catchup"),
        element("timer", name="hpet", present="no"),
        offset="utc",
    )


def lifecycle() -> list[ET.Element]:
    return [
        element("on_poweroff", text="destroy"),
        element("on_reboot", text="restart"),
        element("on_crash", text="destroy"),
    ]


def sysinfo(server_id: str) -> ET.Element:
    """By the product name a guest's cloud-init knows that it runs on OpenStack."""
    entries = {
        "manufacturer": "OpenStack Foundation",
        "product": "OpenStack Nova",
        "version": kilonova.__version__,
        "serial": server_id,
        "uuid": server_id,
        "family": "Virtual Machine",
    }
    system = element("system", *(element("entry", text=text, name=name) for name, text in entries.items()))
    return element("sysinfo", system, type="smbios")
