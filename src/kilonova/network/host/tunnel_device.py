"""A network's tunnel as the kernel has it: a VXLAN device, and where it sends what is for everybody.

The device learns behind which host a MAC is from what comes of there; rules see to it that only the network's
hosts are heard (tunnel_rules.py). What is for everybody, or for a MAC not learned yet, goes to each of them.
"""

from __future__ import annotations

from typing import Any

from kilonova.domain.errors import BuildFailed
from kilonova.network.host import forwarding_table, linux

_EVERYBODY = "00:00:00:00:00:00"
"""The forwarding table's name for what no other entry says."""
_MOST_MACS = 16384
"""That a device knows at once: guests without port security may send from any. What is for others goes to all
hosts of the network."""


def ensure(
    ip: linux.Netlink, name: str, *, vni: int, local: str, port: int, peers: list[str], mtu: int
) -> list[str]:
    """The device is there, up, and sends to those; a line for each thing that was not so."""
    done = []
    if linux.find(name) and not _is_right(ip, name, vni, local, port):
        with linux.making(f"removing {name}"):
            linux.delete_link(name)
        done.append(f"device {name} was another")
    done += linux.ensure_vxlan(ip, name, mtu=mtu, vni=vni, local=local, port=port, most_macs=_MOST_MACS)
    return done + ensure_peers(ip, name, peers)


def ensure_peers(ip: linux.Netlink, name: str, peers: list[str]) -> list[str]:
    with linux.making(f"hosts of {name}"):
        index = linux.index_of(name)
        present = peers_of(name)
        for address in sorted(set(peers) - present):
            ip.fdb("append", ifindex=index, lladdr=_EVERYBODY, dst=address)
        for address in sorted(present - set(peers)):
            ip.fdb("del", ifindex=index, lladdr=_EVERYBODY, dst=address)
    return [f"hosts of {name} set right"] if present != set(peers) else []


def peers_of(name: str) -> set[str]:
    """Where the device, which is there, sends what is for everybody."""
    index = linux.index_of(name)
    try:
        return forwarding_table.destinations(index, bytes.fromhex(_EVERYBODY.replace(":", "")))
    except OSError as error:
        raise BuildFailed(f"hosts of {name}: {error}") from error


def _is_right(ip: linux.Netlink, name: str, vni: int, local: str, port: int) -> bool:
    with linux.making(f"device {name}"):
        info = ip.link("get", ifname=name)[0].get_attr("IFLA_LINKINFO")
    if info is None or info.get_attr("IFLA_INFO_KIND") != "vxlan":
        return False
    data: Any = info.get_attr("IFLA_INFO_DATA")
    kinds = (
        "IFLA_VXLAN_ID",
        "IFLA_VXLAN_LOCAL",
        "IFLA_VXLAN_PORT",
        "IFLA_VXLAN_LEARNING",
        "IFLA_VXLAN_LIMIT",
    )
    return [data.get_attr(kind) for kind in kinds] == [vni, local, port, 1, _MOST_MACS]
