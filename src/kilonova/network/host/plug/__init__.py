"""The plugs: how guests' taps are joined to their networks (base.py says what each must do)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kilonova import config
from kilonova.domain.network import PlugKind, Vif
from kilonova.domain.routers import RouterState
from kilonova.network.host import names
from kilonova.network.host.plug.base import Filters, Plug
from kilonova.network.host.plug.bridge import BridgePlug
from kilonova.network.host.ruleset import Rules

__all__ = ["Filters", "Plug", "make", "on_switch", "routers_on_switch"]


def make(
    kind: PlugKind, options: config.Network, folder: Path, rules: Rules, zone_of: Callable[[str], int]
) -> Plug:
    """The plug of that kind; nothing is looked at or made yet. ``folder`` is the host's own: it says whose a
    thing in the switch is. ``rules``, and the zone of each port's connections, are for one that enforces them
    itself."""
    if kind == "bridge":
        return BridgePlug()
    # The library of the switch's database costs 5 MB and a sixth of a second.
    from kilonova.network.host.plug.hybrid import HybridPlug
    from kilonova.network.host.plug.ovs import OvsPlug
    from kilonova.network.host.switch import Switch

    switch = Switch(config.unix_socket(options.ovsdb_connection), folder)
    return HybridPlug(switch) if kind == "ovs-hybrid" else OvsPlug(switch, rules, zone_of)


def on_switch(kind: PlugKind, vif: Vif) -> set[str]:
    """The ports of Open vSwitch's bridge that this port of a guest needs."""
    if kind == "bridge":
        return set()
    return {names.gate(vif.network_id), names.qvo(vif.port_id) if kind == "ovs-hybrid" else vif.tap}


def routers_on_switch(kind: PlugKind, state: RouterState) -> set[str]:
    """The ports of Open vSwitch's bridge that this router needs."""
    return set() if kind == "bridge" else {names.router_link(one.port_id) for one in state.interfaces}
