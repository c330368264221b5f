"""A network's tunnel on the switch, for both plugs that use one: VXLAN device → Linux bridge knw… → veth
kni…/kno… → br-int, with the network's tag.

The kernel's device and not the switch's own tunnels: those break TCP where the switch works in user space,
and their rules would be others than on a host with bridges. The bridge is where these rules are.
"""

from __future__ import annotations

from kilonova.network.host import linux, names, offload
from kilonova.network.host.linux import Netlink
from kilonova.network.host.plug.base import Known
from kilonova.network.host.switch import Switch, of_gate


def ensure_tunnel(ip: Netlink, switch: Switch, network_id: str, device: str, mtu: int) -> list[str]:
    bridge, inner, outer = (
        make(network_id) for make in (names.tunnel_bridge, names.tunnel_inner, names.tunnel_outer)
    )
    done = linux.ensure_bridge(ip, bridge, mtu, tracked=False)
    master = linux.index_of(bridge)
    done += linux.ensure_set(device, mtu=mtu, master=master)
    done += linux.ensure_veth(ip, inner, outer, None, mtu=mtu, master=master)
    done += linux.ensure_set(outer, mtu=mtu)
    if switch.in_userspace():
        done += offload.ensure_off(inner)
    return done + switch.ensure_port(outer, linux.index_of(outer), network_id, of_gate(network_id))


def remove_tunnel(switch: Switch, network_id: str) -> None:
    switch.remove_port(names.tunnel_outer(network_id))
    with linux.making(f"removing {names.tunnel_bridge(network_id)}"):
        linux.delete_link(names.tunnel_inner(network_id))
        linux.delete_link(names.tunnel_bridge(network_id))


def tunnels(networks: Known) -> set[str]:
    """Ports of the switch that these networks may have."""
    return {names.tunnel_outer(network_id) for network_id in networks()}
