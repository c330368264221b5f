"""What a guest has used and moved, by the names that libvirt gives its statistics of a domain.

https://libvirt.org/html/libvirt-libvirt-domain.html#virConnectGetAllDomainStats
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

from kilonova.domain.diagnostics import CpuUse, Diagnostics, DiskUse, NicUse
from kilonova.virt.libvirt.xml import interface

Stats = Mapping[str, Any]


def diagnostics(stats: Stats, document: str, hypervisor: str) -> Diagnostics:
    """``document``: the domain's, which has the MACs of its NICs."""
    macs = interface.macs(document)
    return Diagnostics(
        driver="libvirt",
        hypervisor=hypervisor,
        hypervisor_os=platform.system().lower(),
        memory_maximum=stats.get("balloon.maximum"),
        memory_used=stats.get("balloon.current"),
        cpus=[CpuUse(id=i, time=stats.get(f"vcpu.{i}.time")) for i in range(stats.get("vcpu.current", 0))],
        nics=[_nic(stats, f"net.{i}", macs) for i in range(stats.get("net.count", 0))],
        disks=[_disk(stats, f"block.{i}") for i in range(stats.get("block.count", 0))],
    )


def _nic(stats: Stats, key: str, macs: Mapping[str, str]) -> NicUse:
    """libvirt has turned the tap's counters round already: they are the guest's."""
    name = str(stats[f"{key}.name"])
    return NicUse(
        device=name,
        mac=macs.get(name),
        rx_octets=stats.get(f"{key}.rx.bytes"),
        rx_packets=stats.get(f"{key}.rx.pkts"),
        rx_errors=stats.get(f"{key}.rx.errs"),
        rx_drop=stats.get(f"{key}.rx.drop"),
        tx_octets=stats.get(f"{key}.tx.bytes"),
        tx_packets=stats.get(f"{key}.tx.pkts"),
        tx_errors=stats.get(f"{key}.tx.errs"),
        tx_drop=stats.get(f"{key}.tx.drop"),
    )


def _disk(stats: Stats, key: str) -> DiskUse:
    return DiskUse(
        device=str(stats[f"{key}.name"]),
        read_bytes=stats.get(f"{key}.rd.bytes"),
        read_requests=stats.get(f"{key}.rd.reqs"),
        write_bytes=stats.get(f"{key}.wr.bytes"),
        write_requests=stats.get(f"{key}.wr.reqs"),
    )
