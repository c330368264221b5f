"""One dnsmasq a network: DHCP and router advertisements, addresses by MAC only, for the ports plugged on this
host.

It is no router of IPv6: what it advertises are prefixes and name servers. Who leads out says so itself
(router_space.py).

It is a daemon of its own and outlives this process, which finds it again by its pid file and proves it by
``/proc/PID/cmdline``: a server that runs with other arguments than it should is replaced. Hosts and options
are in files that SIGHUP reloads, so a plug restarts nothing.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import select
import signal
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path

from kilonova import log, passage
from kilonova.config import Network
from kilonova.domain import dhcp_options
from kilonova.domain.errors import BuildFailed
from kilonova.domain.network import Vif, VifSubnet
from kilonova.network.host import names, records
from kilonova.network.host.plan import METADATA_ADDRESS, NetworkPlan

_log = log.get("network.dhcp")

_LABEL = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?")

_LONGEST_LOG = 1 << 20
"""Bytes that a look leaves of it."""


# What it is told. Pure.
def hosts_file(plan: NetworkPlan) -> bytes:
    """A line a port and subnet: MAC, address, name. DHCP gives one address a subnet."""
    lines = []
    for vif in sorted(plan.vifs, key=lambda vif: vif.port_id):
        seen: set[str] = set()
        for address in vif.addresses:
            if address.subnet.id in seen or not _gives_addresses(address.subnet):
                continue
            seen.add(address.subnet.id)
            ip = address.ip if address.subnet.ip_version == 4 else f"[{address.ip}]"
            name = (vif.hostname or "").partition(".")[0]
            lines.append(",".join([vif.mac, ip, *([name] if _LABEL.fullmatch(name) else [])]))
    return "".join(f"{line}\n" for line in lines).encode()


def options_file(plan: NetworkPlan, dns_servers: list[str]) -> bytes:
    """Per subnet: gateway, routes, name servers. A subnet's own name servers come before ``dns_servers``.

    Then what single ports are told instead: a tag that a MAC has set goes before that of a range.
    """
    lines = []
    for subnet in filter(_advertised, plan.subnets):
        servers = ",".join(f"[{one}]" for one in subnet.dns_nameservers or dns_servers if not _is_ipv4(one))
        if servers:
            lines.append(f"tag:{_tag(subnet)},option6:dns-server,{servers}")
    for subnet in filter(_served, plan.subnets):
        routes = classless_routes(subnet)
        options = {
            # An empty router option: else dnsmasq gives out its own address as the gateway.
            "option:router": subnet.gateway_ip or "",
            "option:classless-static-route": routes,
            "249": routes,  # the same, for Windows
            "option:dns-server": ",".join(filter(_is_ipv4, subnet.dns_nameservers or dns_servers)),
        }
        lines += [
            f"tag:{_tag(subnet)},{name}" + (f",{value}" if value else "") for name, value in options.items()
        ]
    for vif in sorted(plan.vifs, key=lambda vif: vif.port_id):
        lines += _options_of(vif)
    return "".join(f"{line}\n" for line in lines).encode()


def _options_of(vif: Vif) -> list[str]:
    return [
        f"tag:{_port_tag(vif)},{dhcp_options.code(option.opt_name)}"
        + (f",{option.opt_value}" if option.opt_value else "")
        for option in vif.extra_dhcp_opts
    ]


def classless_routes(subnet: VifSubnet) -> str:
    """Option 121. Who asks for it ignores the router option (RFC 3442), so the default route is in it."""
    routes = [(route.destination, route.nexthop) for route in subnet.host_routes if _is_ipv4(route.nexthop)]
    if subnet.dhcp_address:
        routes.append((f"{METADATA_ADDRESS}/32", subnet.dhcp_address))
    if subnet.gateway_ip and not any(destination == "0.0.0.0/0" for destination, _ in routes):
        routes.append(("0.0.0.0/0", subnet.gateway_ip))
    return ",".join(f"{destination},{nexthop}" for destination, nexthop in routes)


def command(plan: NetworkPlan, folder: Path, config: Network) -> list[str]:
    """dnsmasq's arguments; everything that SIGHUP cannot change is here."""
    seconds = f"{config.dhcp_lease_time}s"
    ranges = [
        f"--dhcp-range=set:{_tag(subnet)},{net.network_address},static,{net.netmask},{seconds}"
        for subnet in filter(_served, plan.subnets)
        for net in [IPv4Network(subnet.cidr)]
    ]
    six = list(filter(_advertised, plan.subnets))
    ranges += [
        f"--dhcp-range=set:{_tag(subnet)},{net.network_address},{_RANGES[_mode(subnet)]},{net.prefixlen},{seconds}"
        for subnet in six
        for net in [IPv6Network(subnet.cidr)]
    ]
    if any(subnet.ipv6_ra_mode for subnet in six):
        # Its lifetime as a router is 0. An interval of 0 is the usual one.
        ranges += ["--enable-ra", f"--ra-param={names.GUESTS},0,0"]
    # Tags in the file of hosts would need no restart, but dnsmasq 2.90 dies of the SIGHUP after such a lease.
    tags = [f"--dhcp-mac=set:{_port_tag(vif)},{vif.mac}" for vif in plan.vifs if vif.extra_dhcp_opts]
    return [
        *plain_command(folder),
        f"--interface={names.GUESTS}",
        "--dhcp-authoritative",
        "--no-ping",
        "--dhcp-lease-max=65536",
        f"--dhcp-hostsfile={folder / 'hosts'}",
        f"--dhcp-optsfile={folder / 'options'}",
        f"--dhcp-option-force=option:mtu,{plan.mtu}",
        *([f"--domain={config.dhcp_domain}"] if config.dhcp_domain else []),
        *sorted(tags),
        *ranges,
    ]


def plain_command(folder: Path) -> list[str]:
    """What is the same whatever it serves."""
    user, group = _identity(folder)
    return [
        "dnsmasq",
        "--conf-file=/dev/null",
        "--no-hosts",
        "--no-resolv",
        "--port=0",
        "--bind-interfaces",
        "--except-interface=lo",
        # What it was told is all there is to know, so no lease need outlive the process.
        "--leasefile-ro",
        "--quiet-dhcp",
        "--quiet-dhcp6",
        "--quiet-ra",
        f"--user={user}",
        f"--group={group}",
        f"--pid-file={_pid_file(folder)}",
        f"--log-facility={_log_file(folder)}",
    ]


_RANGES = {"slaac": "ra-only", "dhcpv6-stateless": "ra-stateless", "dhcpv6-stateful": "static"}
"""How dnsmasq calls the modes."""


def _served(subnet: VifSubnet) -> bool:
    """By DHCP of IPv4."""
    return subnet.ip_version == 4 and subnet.enable_dhcp and subnet.dhcp_address is not None


def _mode(subnet: VifSubnet) -> str:
    return subnet.ipv6_ra_mode or subnet.ipv6_address_mode or ""


def _advertised(subnet: VifSubnet) -> bool:
    """By router advertisements, DHCPv6 or both; automatic addresses without the former ask for neither."""
    wanted = subnet.ipv6_ra_mode or subnet.ipv6_address_mode not in (None, "slaac")
    return subnet.ip_version == 6 and subnet.dhcp_address is not None and bool(wanted)


def leases_ipv6(subnet: VifSubnet) -> bool:
    """Whether addresses of it are given out by DHCPv6."""
    return _advertised(subnet) and _mode(subnet) == "dhcpv6-stateful"


def _gives_addresses(subnet: VifSubnet) -> bool:
    return _served(subnet) or leases_ipv6(subnet)


def _is_ipv4(address: str) -> bool:
    return ip_address(address).version == 4


def _tag(subnet: VifSubnet) -> str:
    return f"subnet-{subnet.id}"


def _port_tag(vif: Vif) -> str:
    return f"port-{vif.port_id}"


def _pid_file(folder: Path) -> Path:
    return folder / "dnsmasq.pid"


def _log_file(folder: Path) -> Path:
    return folder / "dnsmasq.log"


def bound_log(folder: Path) -> None:
    """Guests can have lines written there, whatever it is told to be quiet about. It appends, so that it goes
    on at the beginning."""
    with suppress(FileNotFoundError):
        if _log_file(folder).stat().st_size > _LONGEST_LOG:
            os.truncate(_log_file(folder), 0)


def open_way(folder: Path, top: Path) -> None:
    """The user that DHCP servers run as can pass through ``folder``, and those above it up to ``top``."""
    user = _user()
    if os.geteuid() == 0 and user is not None:
        passage.open_way(folder, top, user.pw_uid)  # how that went, _identity() sees


@cache
def _identity(folder: Path) -> tuple[str, str]:
    """The user and group dnsmasq becomes: not root, if such a one can reach the folder."""
    user = _user()
    if user is None:
        return "root", "root"
    if not passage.open_way(folder, folder, user.pw_uid):
        closed = passage.obstacle(folder, user.pw_uid)
        _log.warning("dnsmasq_runs_as_root", reason=f"user {user.pw_name} cannot pass {closed}")
        return "root", "root"
    return user.pw_name, grp.getgrgid(user.pw_gid).gr_name


def _user() -> pwd.struct_passwd | None:
    for name in ("dnsmasq", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    return None


def host_resolvers(
    files: Iterable[str] = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"),
) -> list[str]:
    """The host's IPv4 name servers that others can reach too: none on loopback."""
    for path in files:
        with suppress(OSError):
            words = [line.split() for line in Path(path).read_text().splitlines()]
            servers = [w[1] for w in words if len(w) > 1 and w[0] == "nameserver"]
            if usable := [s for s in servers if not s.startswith("127.") and ":" not in s]:
                return usable
    return []


def is_needed(plan: NetworkPlan) -> bool:
    """Whether there is anything to serve."""
    return any(_served(subnet) or _advertised(subnet) for subnet in plan.subnets)


# The process
def ensure(plan: NetworkPlan, folder: Path, config: Network) -> list[str]:
    """The network's DHCP server runs and knows its ports. Call it inside the network's namespace."""
    if not is_needed(plan):
        return ["DHCP server stopped"] if stop(folder) else []
    changed = _write_if_new(folder / "hosts", hosts_file(plan))
    dns = config.dns_servers or (host_resolvers() if config.nat else [])
    changed |= _write_if_new(folder / "options", options_file(plan, dns))
    wanted = command(plan, folder, config)
    pid = running(folder)
    if pid and _arguments(pid) == wanted:
        if changed:
            os.kill(pid, signal.SIGHUP)
        return []
    if pid:
        stop(folder)
    _pid_file(folder).unlink(missing_ok=True)
    _start(wanted)
    return ["DHCP server started"]


def runs_as(wanted: list[str], folder: Path) -> bool:
    pid = running(folder)
    return pid is not None and _arguments(pid) == wanted


def start(wanted: list[str], folder: Path) -> None:
    """One that needs no more than its arguments. None runs in that folder."""
    records.write(folder / "hosts", b"")  # running() looks for it if this process is killed now
    _pid_file(folder).unlink(missing_ok=True)
    _start(wanted)


def running(folder: Path) -> int | None:
    """The pid of this folder's dnsmasq, if it lives."""
    mark = f"--pid-file={_pid_file(folder)}"
    content = records.read(_pid_file(folder)) or b""
    if content.strip().isdigit() and mark in _arguments(int(content)):
        return int(content)
    if content or not (folder / "hosts").exists():
        return None
    # We died while it started: it has not written its pid file yet.
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return next((pid for pid in pids if mark in _arguments(pid)), None)


def stop(folder: Path) -> bool:
    """The server is gone when this returns; False if there was none."""
    pid = running(folder)
    if pid is None:
        return False
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            if running(folder) == pid:  # the number is not another process's by now
                _end(pid, handle, folder)
        finally:
            os.close(handle)
    _pid_file(folder).unlink(missing_ok=True)
    return True


def _end(pid: int, handle: int, folder: Path) -> None:
    for number, seconds in ((signal.SIGTERM, 2), (signal.SIGKILL, 5)):
        signal.pidfd_send_signal(handle, number)
        ended, _, _ = select.select([handle], [], [], seconds)
        if ended:
            reap(pid)
            return
    raise BuildFailed(f"the DHCP server (pid {pid}) of {folder} does not end")


def reap(pid: int) -> None:
    """It is our child if this process adopts orphans (a child subreaper)."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _start(arguments: list[str]) -> None:
    """Returns when it serves: dnsmasq goes to the background only then, and says before what is wrong."""
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildFailed(f"DHCP server: {error}") from error
    if done.returncode:
        raise BuildFailed(f"DHCP server: {done.stderr.strip() or f'exit {done.returncode}'}")


def _arguments(pid: int) -> list[str]:
    try:
        return Path("/proc", str(pid), "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def _write_if_new(path: Path, content: bytes) -> bool:
    if records.read(path) == content:
        return False
    records.write(path, content)
    return True
