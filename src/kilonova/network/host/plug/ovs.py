"""The plug without a bridge: the tap on br-int itself, and what the guest may send as flows in the switch.

The switch knows a port by a number, which it gives when it takes the port; the port's flows need the number.
So the tap stays down until they are in force. After a restart of the switch, too, nothing passes without
them: the ``fail_mode`` of a br-int of ours is ``secure``.
"""

from __future__ import annotations

from kilonova.domain.errors import BuildFailed
from kilonova.domain.network import PlugKind, Vif
from kilonova.network.host import linux, names
from kilonova.network.host.linux import Netlink
from kilonova.network.host.plan import NetworkPlan
from kilonova.network.host.plug.base import Filters, Known
from kilonova.network.host.plug.gate import ensure_gate, gates, remove_gate
from kilonova.network.host.plug.tunnel import ensure_tunnel, remove_tunnel, tunnels
from kilonova.network.host.switch import Switch, of_port
from kilonova.network.host.switch.guard import Guard


class OvsPlug:
    kind: PlugKind = "ovs"
    filters = Filters.SWITCH
    routers = False

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._guard = Guard(switch)
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
        joined = self._switch.ensure_port(vif.tap, linux.index_of(ip, vif.tap), vif.network_id, of_port(vif))
        self._guard.admit(vif, joined.number)
        return joined.done + linux.ensure_set(ip, vif.tap, mtu=vif.mtu)

    def remove_port(self, ip: Netlink, port_id: str) -> None:
        self._switch.remove_port(names.tap(port_id))
        self._guard.dismiss(port_id)

    def remove_network(self, ip: Netlink, network_id: str, keep_bridge: bool = False) -> None:
        remove_gate(ip, self._switch, network_id)

    def ensure_tunnel(self, ip: Netlink, network_id: str, device: str, mtu: int) -> list[str]:
        return ensure_tunnel(ip, self._switch, network_id, device, mtu)

    def remove_tunnel(self, ip: Netlink, network_id: str) -> None:
        remove_tunnel(ip, self._switch, network_id)

    def tunnel_bridge(self, network_id: str) -> str:
        return names.tunnel_bridge(network_id)

    def changed(self) -> bool:
        return self._switch.changed()

    def settle(self) -> list[str]:
        return self._guard.ensure()

    def sweep(self, networks: Known, ports: Known) -> None:
        def known() -> set[str]:
            return gates(networks) | tunnels(networks) | {names.tap(port_id) for port_id in ports()}

        self._switch.remove_others(known, networks)

    def bridge(self, vif: Vif) -> None:
        return None

    def inner(self, vif: Vif) -> list[str]:
        return []

    def stop(self) -> None:
        self._switch.close()
