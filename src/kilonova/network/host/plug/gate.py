"""A network's gate on the switch: how its namespace is joined to the network, for both plugs that use one."""

from __future__ import annotations

from kilonova.network.host import linux, names, offload
from kilonova.network.host.linux import Netlink
from kilonova.network.host.plan import NetworkPlan
from kilonova.network.host.plug.base import Known
from kilonova.network.host.switch import Switch, of_gate


def ensure_gate(ip: Netlink, switch: Switch, plan: NetworkPlan) -> list[str]:
    """A veth: a switch's own ``internal`` port would be lost from the namespace when the switch restarts."""
    gate, space = names.gate(plan.network_id), names.namespace(plan.network_id)
    mac = names.guests_mac(plan.network_id)
    done = linux.ensure_veth(ip, gate, names.GUESTS, space, mtu=plan.mtu, peer_mac=mac)
    if switch.in_userspace():
        done += linux.inside(space, lambda: offload.ensure_off(names.GUESTS))
    done += switch.ensure_port(gate, linux.index_of(ip, gate), plan.network_id, of_gate(plan.network_id))
    return done


def gates(networks: Known) -> set[str]:
    return {names.gate(network_id) for network_id in networks()}


def remove_gate(ip: Netlink, switch: Switch, network_id: str) -> None:
    gate = names.gate(network_id)
    switch.remove_network(gate, network_id)
    with linux.making(f"removing {gate}"):
        linux.delete_link(ip, gate)
