"""The virtual hardware that an image asks for (``hw_*`` properties) and a flavor grants.

A wish is honoured or refused with BuildAborted, never forgotten: of an image's ``hw_``, ``os_`` and ``img_``
properties those pass that are honoured, that ask for what is so anyway, or that change no guest here. A
flavor's ``hw:``, ``quota:`` and ``pci_passthrough:`` are promises of the operator, so an unknown one is
refused. Source: https://docs.openstack.org/glance/latest/admin/useful-image-properties.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from kilonova.domain.errors import BuildAborted
from kilonova.domain.servers import BuildSpec

_MACHINE = re.compile(r"pc|q35|pc-(i440fx|q35)-[0-9.]+")
DISK_BUSES = ("virtio", "scsi", "sata", "ide")
_CDROM_BUSES = ("ide", "sata", "scsi")
_VIF_MODELS = ("virtio", "e1000", "e1000e", "rtl8139")
_VIDEO_MODELS = ("virtio", "vga", "cirrus", "bochs", "none")
_WISHES = ("hw_", "os_", "img_")
_HONOURED = {
    *("hw_machine_type", "hw_disk_bus", "hw_cdrom_bus", "hw_vif_model", "hw_video_model"),
    "img_config_drive",  # by the API
    *("hw_architecture", "img_hv_type"),  # by the scheduler
}
_NO = ("false", "no", "off", "0", "f", "n")
_SO_ANYWAY = {
    "hw_boot_menu": _NO,
    "hw_cpu_policy": ("shared",),
    "hw_firmware_type": ("bios",),
    "hw_firmware_stateless": _NO,
    "hw_ipxe_boot": _NO,
    "hw_locked_memory": _NO,
    "hw_mem_encryption": _NO,
    "hw_mem_page_size": ("small", "any"),
    "hw_pointer_model": ("ps2mouse",),
    "hw_rng_model": ("virtio",),
    "hw_scsi_model": ("virtio-scsi",),
    "hw_serial_port_count": ("1",),
    "hw_time_hpet": _NO,
    "hw_vif_multiqueue_enabled": _NO,
    "hw_vm_mode": ("hvm",),
    "hw_watchdog_action": ("disabled",),
    "img_hide_hypervisor_id": _NO,
    "os_secure_boot": ("disabled", "optional"),
}
"""Values that ask for what every guest here has, whatever the case of their letters; so does an empty one."""
_NO_MATTER = {
    # what the image holds, for people and tools
    *("os_distro", "os_version", "os_type", "os_admin_user", "os_hidden", "os_hash_algo", "os_hash_value"),
    *("img_owner_id", "img_version", "img_root_device_name"),
    "hw_qemu_guest_agent",  # its channel is always there, and silent if nobody listens
    # for what is no part of a build: rescue; snapshots (compute/snapshot.py)
    *("hw_rescue_bus", "hw_rescue_device", "os_require_quiesce"),
    # for hypervisors and agents of others
    *("hw_auto_disk_config", "hw_device_id", "hw_disk_type", "img_bittorrent", "img_cache_in_nova"),
    *("img_compression_level", "img_linked_clone", "img_use_agent"),
    *("os_skip_agent_inject_files_at_boot", "os_skip_agent_inject_ssh"),
}
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
    wishes: Mapping[str, str] = spec.properties
    refused = [name for name in spec.flavor.extra_specs if name.startswith(_PROMISES)]
    if refused:
        raise BuildAborted(f"the flavor asks for what this hypervisor driver has not: {', '.join(refused)}")
    unmet = [f"{name}={value!r}" for name, value in sorted(wishes.items()) if not _can_be_met(name, value)]
    if unmet:
        raise BuildAborted(f"the image asks for what this hypervisor driver has not: {', '.join(unmet)}")
    machine = wishes.get("hw_machine_type", "pc")
    if not _MACHINE.fullmatch(machine):
        raise BuildAborted(f"the image asks for the machine {machine!r}; here are pc and q35")
    is_q35 = "q35" in machine
    found = Hardware(
        machine=machine,
        disk_bus=_one_of(wishes, "hw_disk_bus", DISK_BUSES, "virtio"),
        cdrom_bus=_one_of(wishes, "hw_cdrom_bus", _CDROM_BUSES, "sata" if is_q35 else "ide"),
        vif_model=_one_of(wishes, "hw_vif_model", _VIF_MODELS, "virtio"),
        video_model=_one_of(wishes, "hw_video_model", _VIDEO_MODELS, "virtio"),
        rng=spec.flavor.extra_specs.get("hw_rng:allowed", "true").lower() not in ("false", "0", "no"),
    )
    if is_q35 and "ide" in (found.disk_bus, found.cdrom_bus):
        raise BuildAborted("the image asks for an IDE device, and the machine q35 has no IDE")
    return found


def _can_be_met(name: str, value: str) -> bool:
    if not name.startswith(_WISHES) or name.startswith("os_glance"):  # those are the image service's own
        return True
    return name in _HONOURED | _NO_MATTER or value.lower() in ("", *_SO_ANYWAY.get(name, ()))


def _one_of(wishes: Mapping[str, str], name: str, known: tuple[str, ...], default: str) -> str:
    value = wishes.get(name, default)
    if value not in known:
        raise BuildAborted(f"the image asks for {name}={value!r}; here are {', '.join(known)}")
    return value
