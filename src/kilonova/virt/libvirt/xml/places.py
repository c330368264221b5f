"""Where libvirt has put NICs and disks, in the words of Nova's device metadata.

https://docs.openstack.org/nova/latest/user/metadata.html: a virtio disk is a device of the PCI bus.
The number of a bus behind a PCIe port (q35) is libvirt's, as Nova has it; firmware may count otherwise.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from kilonova.domain.servers import DevicePlace

_BUSES = ("scsi", "ide")
"""Of disks, whose addresses on them mean something to a guest."""


def of(domain: str) -> dict[str, DevicePlace]:
    """MAC, serial number and path (``/dev/vda``) → where it is, of a document as libvirt wrote it."""
    found: dict[str, DevicePlace] = {}
    for one in ET.fromstring(domain).findall("./devices/*"):  # noqa: S314 - libvirt wrote it
        place = _place(one)
        if place is not None and one.tag in ("interface", "disk"):
            found |= dict.fromkeys(_names(one), place)
    return found


def _names(one: ET.Element) -> list[str]:
    mac, serial, target = one.find("mac"), one.find("serial"), one.find("target")
    if one.tag == "interface":
        return [] if mac is None else [mac.get("address", "")]
    path = [] if target is None else [f"/dev/{target.get('dev')}"]
    return path if serial is None or not serial.text else [serial.text, *path]


def _place(one: ET.Element) -> DevicePlace | None:
    address, target = one.find("address"), one.find("target")
    if address is None:
        return None
    if address.get("type") == "pci":
        domain, bus, slot, function = (
            int(address.get(part, "0"), 16) for part in ("domain", "bus", "slot", "function")
        )
        return DevicePlace(bus="pci", address=f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}")
    on = "" if target is None else target.get("bus", "")
    if address.get("type") == "drive" and on in _BUSES:
        parts = (address.get(part, "0") for part in ("controller", "bus", "target", "unit"))
        return DevicePlace(bus=on, address=":".join(parts))
    return None
