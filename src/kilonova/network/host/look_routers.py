"""What is wrong with a router of this host at this moment (look.py)."""

from __future__ import annotations

from kilonova.domain.network import PlugKind
from kilonova.domain.routers import RouterState
from kilonova.network.host import audit, linux, names, nft, router_plan, router_rules
from kilonova.network.host.external import External
from kilonova.network.host.router_plan import Device, RouterPlan


def router_problems(state: RouterState, external: External, kind: PlugKind) -> list[str]:
    """``kind``: of the plug that joins its interfaces."""
    plan = router_plan.plan(state, external.shared_bridge)
    space = names.router(state.id)
    if not linux.namespace_exists(space):
        return [f"its namespace {space} is missing"]
    found = [line for device in plan.devices for line in _on_host(device, _bridge(device, kind))]
    if state.gateway:
        wanted = external.addresses(state.gateway)
        with linux.netlink() as ip:
            found += _missing(ip, external.bridge(state.gateway.network_id), wanted)
    return found + linux.inside(space, lambda: _inside(plan))


def _bridge(device: Device, kind: PlugKind) -> str | None:
    """None: it is on no Linux bridge."""
    return device.bridge or (names.bridge(device.network_id) if kind == "bridge" else None)


def _on_host(device: Device, name: str | None) -> list[str]:
    link, bridge = linux.find(device.link), linux.find(name) if name else None
    if link is None:
        return [f"device {device.link} is missing"]
    found = [] if link.up else [f"device {device.link} is down"]
    if name and bridge is None:
        return [*found, f"bridge {name} is missing"]
    if bridge and link.master != bridge.index:
        found.append(f"device {device.link} is not on {name}")
    return found


def _missing(ip: linux.Netlink, name: str, wanted: list[str]) -> list[str]:
    """Of a device's addresses."""
    link = linux.find(name)
    if link is None:
        return [f"device {name} is missing"]
    have = {f"{m.get_attr('IFA_ADDRESS')}/{m['prefixlen']}" for m in ip.get_addr(index=link.index)}
    return [f"{text} is missing on {name}" for text in wanted if text not in have]


def _inside(plan: RouterPlan) -> list[str]:
    """In the router's namespace."""
    found = []
    with linux.netlink() as ip:
        for device in plan.devices:
            link = linux.find(device.name)
            if link is None or not link.up:
                found.append(f"device {device.name} is {'missing' if link is None else 'down'}")
                continue
            if link.mac != device.mac:
                found.append(f"device {device.name} has the MAC {link.mac}, not {device.mac}")
            found += _missing(ip, device.name, device.addresses)
        gateways = {route.get_attr("RTA_GATEWAY") for route in ip.get_default_routes(family=2)}
    wanted = {route.nexthop for route in plan.routes if route.destination == "0.0.0.0/0"}
    if not wanted <= gateways:
        found.append("its way out is missing")
    return found + rule_problems([router_rules.router_table(plan)])


def rule_problems(tables: list[nft.Table]) -> list[str]:
    """The audit speaks of what it finds when all is mended."""
    said = [line for table in tables for line in audit.problems(table)]
    return [line.replace(" was missing", " is missing").replace(" were not ", " are not ") for line in said]
