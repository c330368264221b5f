"""The plug of the source document: tap → Linux bridge qbr… → veth qvb…/qvo… → br-int.

The bridge is where the kernel's firewall sees the guest's packets. Names, and the words in the switch's
database, are those of Neutron and os-vif, so that their operators find what they know.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from kilonova.domain.network import PlugKind, Vif
from kilonova.domain.routers import RouterInterface
from kilonova.network.host import linux, names, offload
from kilonova.network.host.linux import Netlink
from kilonova.network.host.plan import NetworkPlan
from kilonova.network.host.plug.base import Bridge, Filters, Known
from kilonova.network.host.plug.gate import (
    ensure_gate,
    ensure_router,
    gates,
    keep_routers,
    look_at_gates,
    look_at_port,
    remove_gate,
)
from kilonova.network.host.plug.tunnel import ensure_tunnel, remove_tunnel, tunnels
from kilonova.network.host.router_plan import Device
from kilonova.network.host.switch import Switch, of_port


class HybridPlug:
    kind: PlugKind = "ovs-hybrid"
    filters = Filters.BRIDGE

    def __init__(self, switch: Switch) -> None:
        self._switch = switch

    def ensure_network(self, ip: Netlink, plan: NetworkPlan) -> list[str]:
        return ensure_gate(ip, self._switch, plan)

    def ensure_port(self, ip: Netlink, vif: Vif) -> list[str]:
        bridge, inner, outer = (make(vif.port_id) for make in (names.qbr, names.qvb, names.qvo))
        done = linux.ensure_bridge(ip, bridge, vif.mtu)
        master = linux.index_of(bridge)
        done += linux.ensure_set(vif.tap, mtu=vif.mtu, master=master)
        done += linux.ensure_veth(ip, inner, outer, None, mtu=vif.mtu, master=master)
        done += linux.ensure_set(outer, mtu=vif.mtu)
        if self._switch.in_userspace():
            done += offload.ensure_off(inner)
        done += self._switch.ensure_port(outer, linux.index_of(outer), vif.network_id, of_port(vif))
        return done

    def remove_port(self, port_id: str) -> list[str]:
        self._switch.remove_port(names.qvo(port_id))
        return [names.qvb(port_id), names.qbr(port_id)]

    def remove_network(self, network_id: str, routed: bool = False) -> None:
        remove_gate(self._switch, network_id, routed)

    def ensure_router(self, ip: Netlink, space: str, device: Device) -> list[str]:
        return ensure_router(self._switch, space, device)

    def keep_routers(self, links: Collection[str]) -> None:
        keep_routers(self._switch, links)

    def refresh(self) -> None:
        """Its rules are the perimeter's."""

    def ensure_tunnel(self, ip: Netlink, network_id: str, device: str, mtu: int) -> list[str]:
        return ensure_tunnel(ip, self._switch, network_id, device, mtu)

    def remove_tunnel(self, network_id: str) -> None:
        remove_tunnel(self._switch, network_id)

    def tunnel_bridge(self, network_id: str) -> str:
        return names.tunnel_bridge(network_id)

    def changed(self) -> bool:
        return self._switch.changed()

    def on_change(self, tell: Callable[[], None]) -> None:
        self._switch.on_change(tell)

    def settle(self) -> list[str]:
        return []

    def look(self) -> list[str]:
        return []

    def look_at(self, vifs: Collection[Vif], interfaces: Collection[RouterInterface]) -> list[str]:
        found = look_at_gates(self._switch, vifs, interfaces)
        for vif in vifs:
            found += look_at_port(self._switch, names.qvo(vif.port_id), vif.network_id, of_port(vif))
        return found

    def sweep(self, networks: Known, ports: Known, routers: Known) -> None:
        def known() -> set[str]:
            of_networks = gates(networks) | tunnels(networks)
            return of_networks | set(routers()) | {names.qvo(port_id) for port_id in ports()}

        self._switch.remove_others(known, networks)

    def bridge(self, vif: Vif) -> Bridge:
        return Bridge(names.qbr(vif.port_id), vif.port_id)

    def inner(self, vif: Vif) -> list[str]:
        return [names.qvb(vif.port_id)]

    def stop(self) -> None:
        self._switch.close()
