"""Hosts: what one can hold, what it holds, and what it says of itself."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kilonova.domain.bounds import Amount, Int32, Int64, Text16, Text32, Text64, Text255
from kilonova.domain.network import PlugKind

_BROADCAST = IPv4Address("255.255.255.255")


def topic(host: str) -> str:
    """Where its agent takes what is soon done, and answers calls."""
    return f"compute.{host}"


def builds_topic(host: str) -> str:
    """Where its agent takes builds, as many at once as it has places for. (A host's name may have dots in it:
    what is added to the topic's stands before it.)"""
    return f"build.compute.{host}"


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """An amount of a host's three resources: CPUs, memory in MiB, disk in GiB."""

    vcpus: Amount
    memory_mb: Amount
    disk_gb: Amount


class HostReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a compute says of its host when it starts and then at each report interval.

    Of which host, says the message that carries it, and that alone: its sender is checked by it.
    """

    hypervisor_hostname: Text255
    hypervisor_type: Text32
    """``QEMU`` (libvirt's name for both KVM and emulation) or ``fake``."""
    hypervisor_version: Int32
    host_ip: Text64
    total: Capacity
    cpu_info: dict[str, Any] = {}
    virt_type: Text16 = "qemu"
    """``kvm`` only if a guest really ran under it."""
    architectures: list[str] = msgspec.field(default_factory=lambda: ["x86_64"])
    plug: PlugKind = "bridge"
    """How guests are joined to their networks there."""
    disk_available_least: Int64 | None = None
    """GiB that the file system has free."""
    follows_network: bool = False
    """Its network wants to be told what changes of the ports on it."""
    tunnel_address: Text64 | None = None
    """Where it takes the tunnels of its networks; None: its networks are on no other host."""
    failed_routers: Annotated[list[Text64], Meta(max_length=10_000)] = []
    """Ids of those that are here, and that it has been unable to make for a while."""

    @property
    def takes_tunnels_at(self) -> str | None:
        """``tunnel_address`` if other hosts can send there: an address of IPv4, of one host, that is not just
        its own."""
        try:
            address = IPv4Address(self.tunnel_address or "")
        except ValueError:
            return None
        useless = address.is_loopback or address.is_unspecified or address.is_multicast
        return None if useless or address == _BROADCAST else str(address)
