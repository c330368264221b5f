"""What is inside a router's namespace: its devices' addresses, its routes, its NAT.

Everything here runs in a thread that is inside the namespace (``linux.inside``).
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Network, ip_interface
from pathlib import Path

from kilonova.network.host import announce, audit, linux, nft, router_metadata, router_rules, tracked
from kilonova.network.host.router_plan import Device, Flow, Route, RouterPlan, contradicts

_RT_TABLE_MAIN = 254
_RTPROT_KERNEL = 2
_RTN_UNICAST = 1

_SYSCTL = Path("/proc/sys/net/ipv4")
_SYSCTL6 = Path("/proc/sys/net/ipv6/conf")
_QUIET = {"accept_ra": "0", "autoconf": "0", "accept_dad": "0"}
_LINK_SCOPE = 253
"""Of a link-local address, which the kernel makes."""
_SETTINGS = {
    "conf/all/promote_secondaries": "1",
    # Answers may leave by another device than the question came by, as with any router.
    "conf/all/rp_filter": "0",
    "conf/default/rp_filter": "0",
    "conf/all/send_redirects": "0",
    "conf/default/send_redirects": "0",
    # Of a device's addresses only: guests of one network learn nothing of the others.
    "conf/all/arp_ignore": "1",
    "conf/all/arp_announce": "2",
}


def prepare() -> None:
    """Once, before any device comes. It forwards only when its rules are loaded."""
    linux.disable_ipv6("all")
    linux.disable_ipv6("default")
    for name, value in _SETTINGS.items():
        (_SYSCTL / name).write_text(value)
    with linux.netlink() as ip, linux.making("loopback"):
        ip.link("set", index=1, state="up")


def present() -> set[str]:
    """Names of the namespace's devices, but for loopback."""
    with linux.netlink() as ip:
        return {link.get_attr("IFLA_IFNAME") for link in ip.get_links()} - {"lo"}


def ensure(plan: RouterPlan) -> tuple[list[str], list[Device]]:
    """Rules, then addresses, then routes; the devices exist. What was made, and where an address is new.

    The rules come first: no packet passes that they should have translated or dropped. What was translated
    by other rules is forgotten then.
    """
    done, new = _ensure_rules(plan), []
    with linux.netlink() as ip, linux.making(f"addresses of router {plan.router_id}"):
        for device in plan.devices:
            lines = _ensure_device(ip, device)
            done += lines
            if lines:
                new.append(device)
        done += _ensure_routes(ip, plan)
        done += router_metadata.ensure(ip, plan.inside)
    for forwarding in (_SYSCTL / "ip_forward", _SYSCTL6 / "all/forwarding"):
        if forwarding.exists() and forwarding.read_text().strip() != "1":
            forwarding.write_text("1")
    return done, new


def forget(plan: RouterPlan) -> None:
    """No connection is translated as the plan does not say.

    A translation is decided once, by a connection's first packet: when a floating IP leads elsewhere, what
    was translated by the old mapping must end, or it goes on.
    """
    tracked.end([one for one in tracked.connections() if contradicts(plan, _flow(one))])


def _flow(one: tracked.Connection) -> Flow:
    return Flow(
        source=one.packet.source,
        target=one.packet.destination,
        answers_from=one.answers_from,
        answers_to=one.answers_to,
        protocol=one.packet.protocol,
        port=one.packet.port,
        answers_port=one.answers_port,
    )


def announce_all(devices: list[Device]) -> None:
    for device in devices:
        announce.announce(device.name, device.mac, device.ips)


def _ensure_rules(plan: RouterPlan) -> list[str]:
    table = router_rules.router_table(plan)
    problems = audit.problems(table)
    if problems:
        nft.apply(nft.replace(table))
        forget(plan)
    return problems


def _ensure_device(ip: linux.Netlink, device: Device) -> list[str]:
    link = linux.find(device.name)
    assert link is not None, f"made with its pair before: {device.name}"
    done = []
    if link.mac != device.mac:
        ip.link("set", index=link.index, address=device.mac)
        done.append(f"MAC of {device.name} set right")
    if not link.up or link.mtu != device.mtu:
        ip.link("set", index=link.index, state="up", mtu=device.mtu)
        done.append(f"{device.name} up")
    _ensure_ipv6(device)
    have = {
        f"{message.get_attr('IFA_ADDRESS')}/{message['prefixlen']}"
        for message in ip.get_addr(index=link.index)
        if message["family"] == socket.AF_INET or message["scope"] != _LINK_SCOPE
    }
    for text in sorted(have - set(device.addresses)):
        one = ip_interface(text)
        ip.addr("del", index=link.index, address=str(one.ip), prefixlen=one.network.prefixlen)
        done.append(f"{device.name}: {one.ip} removed")
    for text in device.addresses:  # the first one given is the one that the device speaks with
        if text not in have:
            one = ip_interface(text)
            ip.addr("add", index=link.index, address=str(one.ip), prefixlen=one.network.prefixlen)
            done.append(f"{device.name}: {one.ip} added")
    return done


def _ensure_ipv6(device: Device) -> None:
    """There is IPv6 only where a subnet is of it; nobody else tells the router its ways."""
    settings = _SYSCTL6 / device.name
    if not settings.exists():  # this kernel has none
        return
    speaks = any(":" in address for address in device.addresses)
    for name, value in (_QUIET | {"disable_ipv6": "0" if speaks else "1"}).items():
        if (settings / name).read_text().strip() != value:
            (settings / name).write_text(value)


def _ensure_routes(ip: linux.Netlink, plan: RouterPlan) -> list[str]:
    """Those of the plan and no others, beside what the kernel has for addresses."""
    indexes = {link.get_attr("IFLA_IFNAME"): link["index"] for link in ip.get_links()}
    wanted = {(one.destination, one.nexthop, indexes.get(one.device or "")): one for one in plan.routes}
    have = _routes(ip)
    done = []
    for destination, nexthop, device in have:
        if (destination, nexthop, device) not in wanted and (destination, nexthop, None) not in wanted:
            gone = {"gateway": nexthop} if nexthop else {"oif": device}
            ip.route("del", dst=destination, **gone)
            done.append(f"route to {destination} removed")
    known = {(destination, nexthop) for destination, nexthop, _ in have}
    for (destination, nexthop, device), route in wanted.items():
        if (destination, nexthop) not in known:
            _add(ip, route, device)
            done.append(f"route to {destination} made")
    return done


def _add(ip: linux.Netlink, route: Route, device: int | None) -> None:
    if route.nexthop:
        ip.route("add", dst=route.destination, gateway=route.nexthop)
    else:
        ip.route("add", dst=route.destination, oif=device, scope="link")


def _routes(ip: linux.Netlink) -> list[tuple[str, str | None, int | None]]:
    """Destination, next hop and device of every route that is not the kernel's own."""
    return [
        (
            str(IPv4Network(f"{m.get_attr('RTA_DST') or '0.0.0.0'}/{m['dst_len']}")),  # noqa: S104
            m.get_attr("RTA_GATEWAY"),
            m.get_attr("RTA_OIF"),
        )
        for m in ip.get_routes(family=2, table=_RT_TABLE_MAIN)
        if m["type"] == _RTN_UNICAST and m["proto"] != _RTPROT_KERNEL
    ]
