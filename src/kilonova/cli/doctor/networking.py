"""What the networks of guests are made of: programs, devices, rules; and the networks that are there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from kilonova.cli import network_checks
from kilonova.cli.doctor.check import Check, NotAsked, Where, apt, run, version
from kilonova.virt.libvirt.needs import Lacking

_KERNEL = "the kernel, or the container around us, does not allow it"


def _dnsmasq(_: Where) -> str:
    return version(run("dnsmasq", "--version"))


def _ip(_: Where) -> str:
    return version(run("ip", "-Version"))


def _nft(_: Where) -> str:
    return version(run("nft", "--version"))


def _tracking(where: Where) -> str:
    if where.network.plug == "ovs":
        raise NotAsked
    if not Path("/proc/sys/net/bridge").exists():
        raise Lacking("no br_netfilter")
    return "br_netfilter is there"


def _in_new_namespace(*command: str, text: str) -> str:
    """Try it in a network namespace that is gone when the command ends."""
    return run("unshare", "--net", *command, text=text)


def _namespaces(_: Where) -> str:
    _in_new_namespace("true", text="")
    return "can be made"


def _device(batch: str) -> Callable[[Where], str]:
    def look(_: Where) -> str:
        _in_new_namespace("ip", "-batch", "-", text=batch)
        return "can be made"

    return look


_BRIDGE_RULES = """
table bridge doctor {
    chain guard { type filter hook forward priority 0; ether type arp accept; iifname "tap0" drop; }
}
"""
_NAT_RULES = """
table ip doctor {
    chain out { type nat hook postrouting priority 100; ip saddr 192.0.2.0/24 masquerade; }
}
"""


def _rules(rules: str) -> Callable[[Where], str]:
    def look(_: Where) -> str:
        _in_new_namespace("nft", "-f", "-", text=rules)
        return "can be loaded"

    return look


def _network_now(where: Where) -> str:
    if where.state is None or os.geteuid() != 0:
        raise NotAsked
    hosts = network_checks.hosts(where.state)
    if not hosts:
        raise NotAsked
    problems = network_checks.problems(hosts, where.network)
    if problems:
        raise Lacking("\n".join(problems))
    return "as recorded"


CHECKS = (
    Check("dnsmasq", _dnsmasq, "it gives guests their addresses", apt("dnsmasq-base")),
    Check("ip", _ip, "it shows, and here it tries, the devices of networks", apt("iproute2")),
    Check("nft", _nft, "it loads the firewall's rules", apt("nftables")),
    Check("network namespaces", _namespaces, _KERNEL, ""),
    Check("bridge devices", _device("link add br0 type bridge\n"), _KERNEL, ""),
    Check("veth devices", _device("link add veth0 type veth peer name veth1\n"), _KERNEL, ""),
    Check("tap devices", _device("tuntap add dev tap0 mode tap\n"), _KERNEL, ""),
    Check("firewall on bridges", _rules(_BRIDGE_RULES), f"guests could pose as others: {_KERNEL}", ""),
    Check(
        "connections of bridges",
        _tracking,
        "without the kernel's br_netfilter there are no security groups",
        "modprobe br_netfilter",
    ),
    Check("NAT", _rules(_NAT_RULES), f"guests would not reach the outside: {_KERNEL}", ""),
    Check(
        "networks of guests",
        _network_now,
        "an agent that runs mends this within 10 seconds; what it mended, and could not mend, is told below",
        "",
    ),
)
