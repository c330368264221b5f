"""What a guest that runs has used and moved since it was started, as its hypervisor counts it."""

from __future__ import annotations

import msgspec

from kilonova.domain.bounds import Text32, Text64


class CpuUse(msgspec.Struct, frozen=True, kw_only=True):
    """``time``: nanoseconds that it ran."""

    id: int
    time: int | None = None


class NicUse(msgspec.Struct, frozen=True, kw_only=True):
    """Of the NIC on the tap ``device``, as the guest sees it: ``rx`` is what came to it."""

    device: Text64
    mac: Text64 | None = None
    rx_octets: int | None = None
    rx_packets: int | None = None
    rx_errors: int | None = None
    rx_drop: int | None = None
    tx_octets: int | None = None
    tx_packets: int | None = None
    tx_errors: int | None = None
    tx_drop: int | None = None


class DiskUse(msgspec.Struct, frozen=True, kw_only=True):
    device: Text64
    read_bytes: int | None = None
    read_requests: int | None = None
    write_bytes: int | None = None
    write_requests: int | None = None


class Diagnostics(msgspec.Struct, frozen=True, kw_only=True):
    """Memory in KiB. What is not known is None."""

    driver: Text32
    hypervisor: Text32
    hypervisor_os: Text32
    memory_maximum: int | None = None
    memory_used: int | None = None
    cpus: list[CpuUse] = []
    nics: list[NicUse] = []
    disks: list[DiskUse] = []
