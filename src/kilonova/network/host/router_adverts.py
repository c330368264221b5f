"""What a router says of itself on subnets of IPv6: that it is one. By a dnsmasq in its namespace.

Everything else that guests are told comes from their own host (dhcp.py). Processes are found as there.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from kilonova.domain.addresses import parse_network
from kilonova.network.host import dhcp
from kilonova.network.host.router_plan import Advert, RouterPlan

_LIFETIME = 1800
"""Seconds for which guests keep the route when nothing is heard of the router."""
_MODES = {"slaac": "ra-only", "dhcpv6-stateless": "ra-only", "dhcpv6-stateful": "static"}


def command(adverts: list[Advert], folder: Path) -> list[str]:
    words = dhcp.plain_command(folder)
    for device in sorted({one.device for one in adverts}):
        words += [f"--interface={device}", f"--ra-param={device},0,{_LIFETIME}"]
    for one in adverts:
        net = parse_network(one.cidr)
        words.append(f"--dhcp-range={net.network_address},{_MODES[one.mode]},{net.prefixlen}")
    return [*words, "--enable-ra"]


def runs(plan: RouterPlan, folder: Path) -> bool:
    """As it should, or not if it should not."""
    if not plan.adverts or not folder.exists():
        return not plan.adverts and not folder.exists()
    return dhcp.runs_as(command(plan.adverts, folder), folder)


def ensure(plan: RouterPlan, folder: Path) -> list[str]:
    """It runs if the plan needs it. Call it inside the router's namespace, whose devices are there."""
    if runs(plan, folder):
        return []
    if not plan.adverts:
        remove(folder)
        return ["router advertisements stopped"]
    dhcp.stop(folder)
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    dhcp.start(command(plan.adverts, folder), folder)
    return ["router advertisements started"]


def remove(folder: Path) -> None:
    dhcp.stop(folder)
    shutil.rmtree(folder, ignore_errors=True)
