"""The plug of one machine: a Linux bridge a network, the guests' taps and the network's gate on it."""

from __future__ import annotations

from collections.abc import Callable, Collection

from kilonova.domain.network import PlugKind, Vif
from kilonova.domain.routers import RouterInterface
from kilonova.network.host import linux, names
from kilonova.network.host.linux import Netlink
from kilonova.network.host.plan import NetworkPlan
from kilonova.network.host.plug.base import Bridge, Filters, Known
from kilonova.network.host.router_plan import Device


class BridgePlug:
    kind: PlugKind = "bridge"
    filters = Filters.BRIDGE

    def ensure_network(self, ip: Netlink, plan: NetworkPlan) -> list[str]:
        bridge, space = names.bridge(plan.network_id), names.namespace(plan.network_id)
        done = linux.ensure_bridge(ip, bridge, plan.mtu)
        gate, mac = names.gate(plan.network_id), names.guests_mac(plan.network_id)
        master = linux.index_of(bridge)
        return done + linux.ensure_veth(
            ip, gate, names.GUESTS, space, mtu=plan.mtu, master=master, peer_mac=mac
        )

    def ensure_port(self, ip: Netlink, vif: Vif) -> list[str]:
        master = linux.index_of(vif.bridge)
        return linux.ensure_set(vif.tap, mtu=vif.mtu, master=master)

    def remove_port(self, port_id: str) -> list[str]:
        return []  # the tap is all there is

    def remove_network(self, network_id: str, routed: bool = False) -> None:
        gate, bridge = names.gate(network_id), names.bridge(network_id)
        for name in [gate] if routed else [gate, bridge]:
            with linux.making(f"removing {name}"):
                linux.delete_link(name)

    def ensure_router(self, ip: Netlink, space: str, device: Device) -> list[str]:
        bridge = names.bridge(device.network_id)
        done = linux.ensure_bridge(ip, bridge, device.mtu)
        master = linux.index_of(bridge)
        return done + linux.ensure_set(device.link, mtu=device.mtu, master=master)

    def keep_routers(self, links: Collection[str]) -> None:
        """On a bridge are no ends without their devices."""

    def refresh(self) -> None:
        """Its rules are the perimeter's."""

    def ensure_tunnel(self, ip: Netlink, network_id: str, device: str, mtu: int) -> list[str]:
        return linux.ensure_set(device, mtu=mtu, master=linux.index_of(names.bridge(network_id)))

    def remove_tunnel(self, network_id: str) -> None:
        """The device is all there was."""

    def tunnel_bridge(self, network_id: str) -> None:
        return None

    def changed(self) -> bool:
        return False  # it is all the kernel's

    def on_change(self, tell: Callable[[], None]) -> None:
        """There is none."""

    def settle(self) -> list[str]:
        return []

    def look(self) -> list[str]:
        return []

    def look_at(self, vifs: Collection[Vif], interfaces: Collection[RouterInterface]) -> list[str]:
        return []  # they are devices and nothing else

    def sweep(self, networks: Known, ports: Known, routers: Known) -> None:
        """Networks without ports are found by their folders (host.py), ports without records do not exist."""

    def bridge(self, vif: Vif) -> Bridge:
        return Bridge(vif.bridge, vif.network_id)

    def inner(self, vif: Vif) -> list[str]:
        return [names.gate(vif.network_id)]

    def stop(self) -> None:
        pass
