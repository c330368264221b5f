"""What is inside a network's namespace: the addresses guests know, the way out, the NAT.

Everything here runs in a thread that is inside the namespace (``linux.inside``).
"""

from __future__ import annotations

import socket
from pathlib import Path

from kilonova.domain.network import Vif
from kilonova.network.host import announce, audit, firewall, linux, names, nft, release
from kilonova.network.host.plan import NetworkPlan, interface

_LINK_SCOPE = 253
"""Of a link-local address, which the kernel makes."""
_QUIET = {"accept_ra": "0", "autoconf": "0", "router_solicitations": "0", "accept_dad": "0"}
"""Other hosts have the same addresses on this network: the guests' own host answers them."""


def ensure(plan: NetworkPlan) -> list[str]:
    """Addresses, way out, NAT and limits are there; a line for each thing that was not."""
    with linux.netlink() as ip, linux.making(f"namespace of network {plan.network_id}"):
        return _ensure_guests_side(ip, plan) + _ensure_uplink(ip, plan) + _ensure_rules()


def prepare() -> None:
    """Once, before any device comes: no IPv6, loopback up (DHCPRELEASE goes over it), and an address that
    goes takes no other of its subnet along."""
    linux.disable_ipv6("all")
    linux.disable_ipv6("default")
    Path("/proc/sys/net/ipv4/conf/all/promote_secondaries").write_text("1")
    with linux.netlink() as ip, linux.making("loopback"):
        ip.link("set", index=1, state="up")


def release_leases(vif: Vif) -> None:
    """The DHCP server forgets a port that leaves."""
    for address in vif.addresses:
        if address.subnet.ip_version == 4 and address.subnet.enable_dhcp and address.subnet.dhcp_address:
            release.send(vif.mac, address.ip, address.subnet.dhcp_address)


def _ensure_guests_side(ip: linux.Netlink, plan: NetworkPlan) -> list[str]:
    mac = names.guests_mac(plan.network_id)
    new = _ensure_mac(ip, names.GUESTS, mac)
    done = _ensure_up(ip, names.GUESTS, plan.mtu)
    new += _ensure_addresses(ip, names.GUESTS, plan.addresses)
    if new:
        # A router, or another MAC, may have been the gateway until now.
        own = [gateway for subnet in plan.subnets if (gateway := plan.gateway(subnet))]
        announce.announce(names.GUESTS, mac, own)
    done += new + _ensure_ipv6(ip, plan)
    device = ip.link_lookup(ifname=names.GUESTS)[0]
    for cidr in plan.routes_to_guests:
        ip.route("replace", dst=cidr, oif=device, scope="link")
    return done


def _ensure_ipv6(ip: linux.Netlink, plan: NetworkPlan) -> list[str]:
    """There is IPv6 only where a subnet is advertised; what routers say is for the guests alone."""
    settings = Path("/proc/sys/net/ipv6/conf", names.GUESTS)
    if not settings.exists():  # this kernel has none
        return []
    wanted = _QUIET | {"disable_ipv6": "0" if plan.addresses6 else "1"}
    for name, value in wanted.items():
        if (settings / name).read_text().strip() != value:
            (settings / name).write_text(value)
    return _ensure_addresses(ip, names.GUESTS, plan.addresses6, socket.AF_INET6)


def _ensure_uplink(ip: linux.Netlink, plan: NetworkPlan) -> list[str]:
    link = linux.find(names.UPLINK)
    if plan.transit is None or link is None:
        return []
    done = _ensure_up(ip, names.UPLINK, plan.mtu)
    done += _ensure_addresses(ip, names.UPLINK, [f"{plan.transit.namespace}/31"])
    gateways = [route.get_attr("RTA_GATEWAY") for route in ip.get_default_routes(family=2)]
    if gateways != [plan.transit.host]:
        ip.route("replace", dst="0.0.0.0/0", gateway=plan.transit.host, oif=link.index)
        done.append("way out made")
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    if forwarding.read_text().strip() != "1":
        forwarding.write_text("1")
    return done


def _ensure_rules() -> list[str]:
    table = firewall.namespace_table()
    if problems := audit.problems(table):
        nft.apply(nft.replace(table))
        return problems
    return []


def _ensure_mac(ip: linux.Netlink, name: str, mac: str) -> list[str]:
    link = linux.find(name)
    assert link is not None, f"made with its pair before: {name}"
    if link.mac == mac:
        return []
    ip.link("set", index=link.index, address=mac)
    return [f"MAC of {name} set right"]


def _ensure_up(ip: linux.Netlink, name: str, mtu: int) -> list[str]:
    link = linux.find(name)
    assert link is not None, f"made with its pair before: {name}"
    if link.up and link.mtu == mtu:
        return []
    ip.link("set", index=link.index, state="up", mtu=mtu)
    return [f"{name} up"]


def _ensure_addresses(
    ip: linux.Netlink, name: str, wanted: list[str], family: int = socket.AF_INET
) -> list[str]:
    device = ip.link_lookup(ifname=name)[0]
    present = [
        f"{message.get_attr('IFA_ADDRESS')}/{message['prefixlen']}"
        for message in ip.get_addr(family=family, index=device)
        if family == socket.AF_INET or message["scope"] != _LINK_SCOPE
    ]
    for text in present:
        if text not in wanted:
            address, length = interface(text)
            ip.addr("del", index=device, address=address, prefixlen=length)
    for text in wanted:
        if text not in present:
            address, length = interface(text)
            ip.addr("add", index=device, address=address, prefixlen=length)
    return [f"addresses of {name} set right"] if set(present) != set(wanted) else []
