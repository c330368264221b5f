"""A network's way out: devices and routes on the host's side of its namespace. (Its way to the guests is the
plug's.)"""

from __future__ import annotations

import errno
from ipaddress import IPv4Network
from pathlib import Path

from pyroute2.netlink.exceptions import NetlinkError

from kilonova.network.host import linux, names, records, rtnl
from kilonova.network.host.plan import NetworkPlan, Transit

_IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


def ensure(ip: linux.Netlink, plan: NetworkPlan) -> list[str]:
    """The transit is there if there is a way out, and not if a router is it. The namespace is there
    already."""
    if plan.transit:
        return _ensure_transit(ip, plan)
    if linux.find(names.transit(plan.network_id)) is None:
        return []
    remove(plan.network_id)
    return ["way out removed: a router is it"]


def _ensure_transit(ip: linux.Netlink, plan: NetworkPlan) -> list[str]:
    assert plan.transit is not None
    name, space = names.transit(plan.network_id), names.namespace(plan.network_id)
    done = linux.ensure_veth(ip, name, names.UPLINK, space, mtu=plan.mtu)
    with linux.making(f"addresses of {name}"):
        device = linux.index_of(name)
        if plan.transit.host not in rtnl.addresses(device):
            ip.addr("add", index=device, address=plan.transit.host, prefixlen=31)
            done.append(f"address of {name} set")
        done += _ensure_routes(ip, device, plan)
    return done


def _ensure_routes(ip: linux.Netlink, device: int, plan: NetworkPlan) -> list[str]:
    """The operator reaches guests from the host, where nothing else claims their addresses."""
    assert plan.transit is not None
    routes = rtnl.routes()
    own = {network for network, oif in routes if oif == device}
    taken = [network for network, oif in routes if oif != device and network.prefixlen]
    done = []
    for network in plan.routed:
        if network in own or any(network.overlaps(other) for other in taken):
            continue
        if _add_route(ip, str(network), plan.transit.namespace, device):
            done.append(f"route to {network} made")
    for network in own - set(plan.routed):
        if not network.subnet_of(IPv4Network(f"{plan.transit.host}/31", strict=False)):
            ip.route("del", dst=str(network), oif=device)
            done.append(f"route to {network} removed")
    return done


def _add_route(ip: linux.Netlink, destination: str, gateway: str, device: int) -> bool:
    try:
        ip.route("add", dst=destination, gateway=gateway, oif=device)
    except NetlinkError as error:
        if error.code != errno.EEXIST:  # another network was faster
            raise
        return False
    return True


def is_free(link: Transit) -> bool:
    """Nothing on the host has a route into this link's range; one over a wider range does no harm."""
    wanted = IPv4Network(f"{link.host}/31")
    return not any(network.subnet_of(wanted) for network, _ in rtnl.routes())


def remove(network_id: str) -> None:
    """The way out is gone; the namespace's end goes with its pair."""
    name = names.transit(network_id)
    with linux.making(f"removing {name}"):
        linux.delete_link(name)


def ensure_forwarding(remembered: Path) -> list[str]:
    """The host forwards; what it did before our first network is remembered in that file."""
    before = _IP_FORWARD.read_text()
    if not remembered.exists():
        records.write(remembered, before.encode())
    if before.strip() == "1":
        return []
    with linux.making("net.ipv4.ip_forward"):
        _IP_FORWARD.write_text("1")
    return ["net.ipv4.ip_forward set to 1"]


def restore_forwarding(remembered: Path) -> None:
    before = records.read(remembered)
    if before is not None:
        with linux.making("net.ipv4.ip_forward"):
            _IP_FORWARD.write_text(before.decode())
        remembered.unlink()
