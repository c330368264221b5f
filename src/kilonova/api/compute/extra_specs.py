"""Which extra specs there are, and what values they take (checked since microversion 2.86).

A spec in a namespace of ours must be in this table and its value of the kind given there. Names without a
namespace, and namespaces of others, are free. The table says what is well-formed; whether a host can give it
is the scheduler's and the driver's business.
Source: https://docs.openstack.org/nova/latest/configuration/extra-specs.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from kilonova.api.compute import inputs
from kilonova.domain.errors import BadRequest

Check = Callable[[str], str | None]
"""A value → what is wrong with it, or None."""

_CPUS = r"\^?\d+(-\d+)?(,\^?\d+(-\d+)?)*"
_GROUP = r"[a-zA-Z0-9_-]{0,64}"


def _number(low: int | None = None, high: int | None = None) -> Check:
    def check(value: str) -> str | None:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", value):
            return "is not a valid integer value"
        if low is not None and int(value) < low:
            return f"is less than the min value of '{low}'"
        if high is not None and int(value) > high:
            return f"is greater than the max value of '{high}'"
        return None

    return check


def _one_of(*words: str) -> Check:
    return lambda value: None if value in words else f"is not one of: {', '.join(words)}"


def _form(pattern: str) -> Check:
    return lambda value: None if re.fullmatch(pattern, value) else f"is not of the format '{pattern}'"


def _truth(value: str) -> str | None:
    try:
        inputs.truth("value", value)
    except ValueError:
        return "is not a valid boolean-like value"
    return None


def _anything(_value: str) -> str | None:
    return None


_INTEGER, _COUNT, _AT_LEAST_ONE = _number(), _number(0), _number(1)

_TABLE: dict[str, Check] = {
    r"accel:device_profile": _anything,
    r"aggregate_instance_extra_specs:.+": _anything,
    r"capabilities:\w+(:\w+)*": _anything,
    r"group_policy": _one_of("isolate", "none"),
    r"hide_hypervisor_id": _truth,
    r"hw:(boot_menu|cpu_realtime|ephemeral_encryption|hide_hypervisor_id|locked_memory)": _truth,
    r"hw:(mem_encryption|pmu|vif_multiqueue_enabled|virtio_packed_ring)": _truth,
    r"hw:cpu_(max_)?(cores|sockets|threads)": _AT_LEAST_ONE,
    r"hw:cpu_policy": _one_of("dedicated", "shared", "mixed"),
    r"hw:cpu_thread_policy": _one_of("prefer", "isolate", "require"),
    r"hw:cpu_(dedicated|realtime)_mask": _form(_CPUS),
    r"hw:emulator_threads_policy": _one_of("isolate", "share"),
    r"hw:ephemeral_encryption_format": _one_of("plain", "luks", "luksv2"),
    r"hw:mem_encryption_model": _one_of("amd-sev", "amd-sev-es", "amd-sev-snp", "intel-tdx"),
    r"hw:mem_page_size": _form(r"(large|small|any|\d+([kKMGT]i?)?(b|bit|B)?)"),
    r"hw:numa_cpus\.\d+": _form(_CPUS),
    r"hw:numa_mem\.\d+": _AT_LEAST_ONE,
    r"hw:numa_nodes": _AT_LEAST_ONE,
    r"hw:pci_numa_affinity_policy": _one_of("required", "preferred", "legacy", "socket"),
    r"hw:pmem": _form(r"[a-zA-Z0-9_,]*[a-zA-Z0-9_][a-zA-Z0-9_,]*"),
    r"hw:redirected_usb_ports": _number(0, 15),
    r"hw:serial_port_count": _COUNT,
    r"hw:sound_model": _one_of("sb16", "es1370", "pcspk", "ac97", "ich6", "ich9", "usb", "virtio"),
    r"hw:tpm_model": _one_of("tpm-tis", "tpm-crb"),
    r"hw:tpm_secret_security": _one_of("user", "host", "deployment"),
    r"hw:tpm_version": _one_of("1.2", "2.0"),
    r"hw:usb_model": _one_of("none", "nec-xhci", "qemu-xhci"),
    r"hw:viommu_model": _one_of("intel", "smmuv3", "virtio", "auto"),
    r"hw:watchdog_action": _one_of("none", "pause", "poweroff", "reset", "disabled"),
    r"hw_rng:allowed": _truth,
    r"hw_rng:rate_(bytes|period)": _COUNT,
    r"hw_video:ram_max_mb": _COUNT,
    r"os:secure_boot": _one_of("disabled", "required"),
    r"pci_passthrough:alias": _form(r"[^:,]+:\d+(\s*,\s*[^:,]+:\d+)*"),
    r"quota:(cpu|disk_io|memory|vif)_(limit|shares_share)": _COUNT,
    r"quota:(cpu|disk_io|memory|vif)_reservation": _INTEGER,
    r"quota:(cpu|disk_io|memory|vif)_shares_level": _one_of("custom", "high", "normal", "low"),
    r"quota:cpu_(shares|period)": _COUNT,
    r"quota:cpu_quota": _INTEGER,
    r"quota:disk_(read|write|total)_(bytes|iops)_sec": _COUNT,
    r"quota:vif_(inbound|outbound)_(average|peak|burst)": _COUNT,
    rf"resources{_GROUP}:[A-Z0-9_]+": _INTEGER,
    rf"trait{_GROUP}:[A-Z0-9_]+": _one_of("required", "forbidden"),
    r"vmware:(hw_version|storage_policy)": _anything,
}
_RULES = [(re.compile(name), check) for name, check in _TABLE.items()]
_NAMESPACES = re.compile(
    "accel|aggregate_instance_extra_specs|capabilities|hw|hw_rng|hw_video|os|pci_passthrough|quota|vmware"
    f"|resources{_GROUP}|trait{_GROUP}"
)


def validate(specs: Mapping[str, str]) -> None:
    """BadRequest for the first spec that is none, or whose value it does not take."""
    for name, value in specs.items():
        check = next((check for known, check in _RULES if known.fullmatch(name)), None)
        if check is not None and (wrong := check(value)) is not None:
            raise BadRequest(f"Validation failed; '{value}' {wrong}.")
        namespace, colon, _ = name.partition(":")
        if check is None and colon and _NAMESPACES.fullmatch(namespace):
            raise BadRequest(
                f"Validation failed; extra spec '{name}' does not appear to be a valid extra spec."
            )
