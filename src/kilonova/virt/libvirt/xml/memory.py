"""Memory, and the balloon through which the host sees how much of it the guest uses."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from kilonova.virt.libvirt.xml.build import element


def memory(mib: int) -> ET.Element:
    return element("memory", text=mib, unit="MiB")


def balloon() -> ET.Element:
    return element("memballoon", model="virtio")
