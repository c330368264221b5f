"""How namespaces are joined to a network on the switch, for both plugs that use one: by the network's gate,
and by its routers' devices."""

from __future__ import annotations

from collections.abc import Collection

from kilonova.domain.network import Vif
from kilonova.domain.routers import RouterInterface
from kilonova.network.host import linux, names, offload
from kilonova.network.host.linux import Netlink
from kilonova.network.host.plan import NetworkPlan
from kilonova.network.host.plug.base import Known
from kilonova.network.host.router_plan import Device
from kilonova.network.host.switch import Switch, of_gate


def ensure_gate(ip: Netlink, switch: Switch, plan: NetworkPlan) -> list[str]:
    """A veth: a switch's own ``internal`` port would be lost from the namespace when the switch restarts."""
    gate, space = names.gate(plan.network_id), names.namespace(plan.network_id)
    mac = names.guests_mac(plan.network_id)
    done = linux.ensure_veth(ip, gate, names.GUESTS, space, mtu=plan.mtu, peer_mac=mac)
    if switch.in_userspace():
        done += linux.inside(space, lambda: offload.ensure_off(names.GUESTS))
    done += switch.ensure_port(gate, linux.index_of(gate), plan.network_id, of_gate(plan.network_id))
    return done


def look_at_gates(
    switch: Switch, vifs: Collection[Vif], interfaces: Collection[RouterInterface]
) -> list[str]:
    """What is wrong on the switch with the gates of these ports' networks, and with these of routers."""
    ends = {names.gate(vif.network_id): vif.network_id for vif in vifs}
    ends |= {names.router_link(one.port_id): one.network_id for one in interfaces}
    return [
        line
        for name, network_id in sorted(ends.items())
        for line in look_at_port(switch, name, network_id, of_gate(network_id))
    ]


def look_at_port(
    switch: Switch, name: str, network_id: str, said: dict[str, str], *, closed: bool = False
) -> list[str]:
    """What is wrong with a port that is on the switch, and whose device is there."""
    link = linux.find(name)
    return switch.look_at(name, link.index, network_id, said, closed=closed) if link else []


def gates(networks: Known) -> set[str]:
    return {names.gate(network_id) for network_id in networks()}


def remove_gate(switch: Switch, network_id: str, routed: bool) -> None:
    """``routed``: the network's tag stays."""
    gate = names.gate(network_id)
    if routed:
        switch.remove_port(gate)
    else:
        switch.remove_network(gate, network_id)
    with linux.making(f"removing {gate}"):
        linux.delete_link(gate)


def ensure_router(switch: Switch, space: str, device: Device) -> list[str]:
    """A port of the network's tag and of no other."""
    done = linux.ensure_set(device.link, mtu=device.mtu)
    if switch.in_userspace():
        done += linux.inside(space, lambda: offload.ensure_off(device.name))
    index = linux.index_of(device.link)
    return done + switch.ensure_port(device.link, index, device.network_id, of_gate(device.network_id))


def keep_routers(switch: Switch, links: Collection[str]) -> None:
    for name in sorted(switch.ours()):
        if name.startswith(names.ROUTER_LINK) and name not in links:
            switch.remove_port(name)
