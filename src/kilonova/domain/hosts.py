"""Hosts: what one can hold, what it holds, and what it says of itself."""

from __future__ import annotations

from typing import Any

import msgspec


def topic(host: str) -> str:
    """Where its agent takes what is soon done, and answers calls."""
    return f"compute.{host}"


def builds_topic(host: str) -> str:
    """Where its agent takes builds, as many at once as it has places for. (A host's name may have dots in it:
    what is added to the topic's stands before it.)"""
    return f"build.compute.{host}"


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """An amount of a host's three resources: CPUs, memory in MiB, disk in GiB."""

    vcpus: int
    memory_mb: int
    disk_gb: int


class HostReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a compute says of its host when it starts and then at each report interval.

    Of which host, says the message that carries it, and that alone: its sender is checked by it.
    """

    hypervisor_hostname: str
    hypervisor_type: str
    """``QEMU`` (libvirt's name for both KVM and emulation) or ``fake``."""
    hypervisor_version: int
    host_ip: str
    total: Capacity
    cpu_info: dict[str, Any] = {}
    virt_type: str = "qemu"
    """``kvm`` only if a guest really ran under it."""
    architectures: list[str] = msgspec.field(default_factory=lambda: ["x86_64"])
    disk_available_least: int | None = None
    """GiB that the file system has free."""
