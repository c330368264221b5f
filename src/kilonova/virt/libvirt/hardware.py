"""The virtual hardware that an image asks for (``hw_*`` properties) and a flavor grants.

A wish is honoured or refused with BuildAborted, never forgotten. Properties that only other hypervisors
read are not ours to judge; a flavor's ``hw:``, ``quota:`` and ``pci_passthrough:`` are promises of the
operator, so an unknown one is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from kilonova.domain.errors import BuildAborted
from kilonova.domain.servers import BuildSpec

_MACHINE = re.compile(r"pc|q35|pc-(i440fx|q35)-[0-9.]+")
_DISK_BUSES = ("virtio", "scsi", "sata", "ide")
_CDROM_BUSES = ("ide", "sata", "scsi")
_VIF_MODELS = ("virtio", "e1000", "e1000e", "rtl8139")
_VIDEO_MODELS = ("virtio", "vga", "cirrus", "bochs", "none")
_PROMISES = ("hw:", "quota:", "pci_passthrough:", "os:", "hw_video:")


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    machine: str = "pc"
    disk_bus: str = "virtio"
    cdrom_bus: str = "ide"
    vif_model: str = "virtio"
    video_model: str = "virtio"
    rng: bool = True

    @property
    def is_q35(self) -> bool:
        return "q35" in self.machine


def hardware(spec: BuildSpec) -> Hardware:
    """What this server's machine is made of. BuildAborted names the wish that cannot be met."""
    wishes: Mapping[str, str] = spec.image.properties if spec.image else {}
    refused = [name for name in spec.flavor.extra_specs if name.startswith(_PROMISES)]
    if refused:
        raise BuildAborted(f"the flavor asks for what this hypervisor driver has not: {', '.join(refused)}")
    if wishes.get("hw_firmware_type", "bios") != "bios":
        raise BuildAborted(f"the image asks for the firmware {wishes['hw_firmware_type']!r}; here is bios")
    machine = wishes.get("hw_machine_type", "pc")
    if not _MACHINE.fullmatch(machine):
        raise BuildAborted(f"the image asks for the machine {machine!r}; here are pc and q35")
    is_q35 = "q35" in machine
    found = Hardware(
        machine=machine,
        disk_bus=_one_of(wishes, "hw_disk_bus", _DISK_BUSES, "virtio"),
        cdrom_bus=_one_of(wishes, "hw_cdrom_bus", _CDROM_BUSES, "sata" if is_q35 else "ide"),
        vif_model=_one_of(wishes, "hw_vif_model", _VIF_MODELS, "virtio"),
        video_model=_one_of(wishes, "hw_video_model", _VIDEO_MODELS, "virtio"),
        rng=spec.flavor.extra_specs.get("hw_rng:allowed", "true").lower() not in ("false", "0", "no"),
    )
    if is_q35 and "ide" in (found.disk_bus, found.cdrom_bus):
        raise BuildAborted("the image asks for an IDE device, and the machine q35 has no IDE")
    return found


def _one_of(wishes: Mapping[str, str], name: str, known: tuple[str, ...], default: str) -> str:
    value = wishes.get(name, default)
    if value not in known:
        raise BuildAborted(f"the image asks for {name}={value!r}; here are {', '.join(known)}")
    return value
