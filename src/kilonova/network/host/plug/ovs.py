"""The plug without a bridge: the tap on br-int itself, and all that may pass it as flows in the switch.

The switch knows a port by a number, which it gives when it takes the port; the port's flows need the number.
Without them nothing passes, whatever the bridge does otherwise: by its VLAN the port is nowhere, and that is
in the switch's database, so it is there before the port is, and after a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from kilonova.domain.errors import BuildFailed
from kilonova.domain.network import PlugKind, Vif
from kilonova.domain.routers import RouterInterface
from kilonova.network.host import linux, names
from kilonova.network.host.linux import Netlink
from kilonova.network.host.plan import NetworkPlan
from kilonova.network.host.plug.base import Filters, Known
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
from kilonova.network.host.ruleset import Rules
from kilonova.network.host.switch import Switch, of_port
from kilonova.network.host.switch.guard import Guard


class OvsPlug:
    kind: PlugKind = "ovs"
    filters = Filters.SWITCH

    def __init__(self, switch: Switch, rules: Rules, zone_of: Callable[[str], int]) -> None:
        self._switch = switch
        self._guard = Guard(switch, rules, zone_of)
        switch.needs_flows = True

    def ensure_network(self, ip: Netlink, plan: NetworkPlan) -> list[str]:
        return ensure_gate(ip, self._switch, plan)

    def ensure_port(self, ip: Netlink, vif: Vif) -> list[str]:
        if self._switch.in_userspace() and not self._switch.segments():
            # The guest leaves checksums to the switch then, and the switch passes them on unmade: no TCP.
            raise BuildFailed(
                "Open vSwitch works without its kernel module here, and so must take over checksums:"
                " ovs-vsctl set Open_vSwitch . other_config:userspace-tso-enable=true, then restart it"
            )
        device = linux.index_of(vif.tap)
        done = self._switch.ensure_port(
            vif.tap, device, vif.network_id, of_port(vif), closed=vif.port_security
        )
        self._guard.load()
        return done + linux.ensure_set(vif.tap, mtu=vif.mtu)

    def remove_port(self, port_id: str) -> list[str]:
        self._switch.remove_port(names.tap(port_id))
        self._guard.dismiss(port_id)
        return []

    def remove_network(self, network_id: str, routed: bool = False) -> None:
        remove_gate(self._switch, network_id, routed)
        self._guard.load()

    def ensure_router(self, ip: Netlink, space: str, device: Device) -> list[str]:
        done = ensure_router(self._switch, space, device)
        self._guard.load()
        return done

    def keep_routers(self, links: Collection[str]) -> None:
        keep_routers(self._switch, links)
        self._guard.load()

    def refresh(self) -> None:
        self._guard.change()

    def ensure_tunnel(self, ip: Netlink, network_id: str, device: str, mtu: int) -> list[str]:
        done = ensure_tunnel(ip, self._switch, network_id, device, mtu)
        self._guard.load()
        return done

    def remove_tunnel(self, network_id: str) -> None:
        remove_tunnel(self._switch, network_id)
        self._guard.load()

    def tunnel_bridge(self, network_id: str) -> str:
        return names.tunnel_bridge(network_id)

    def changed(self) -> bool:
        return self._switch.changed()

    def on_change(self, tell: Callable[[], None]) -> None:
        self._switch.on_change(tell)

    def settle(self) -> list[str]:
        return self._guard.ensure()

    def look(self) -> list[str]:
        return self._guard.look()

    def look_at(self, vifs: Collection[Vif], interfaces: Collection[RouterInterface]) -> list[str]:
        found = look_at_gates(self._switch, vifs, interfaces)
        for vif in vifs:
            said, closed = of_port(vif), vif.port_security
            found += look_at_port(self._switch, vif.tap, vif.network_id, said, closed=closed)
        return found

    def sweep(self, networks: Known, ports: Known, routers: Known) -> None:
        def known() -> set[str]:
            of_networks = gates(networks) | tunnels(networks)
            return of_networks | set(routers()) | {names.tap(port_id) for port_id in ports()}

        self._switch.remove_others(known, networks)

    def bridge(self, vif: Vif) -> None:
        return None

    def inner(self, vif: Vif) -> list[str]:
        return []

    def stop(self) -> None:
        self._switch.close()
