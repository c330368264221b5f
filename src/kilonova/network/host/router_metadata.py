"""Guests whose way to the metadata service is their router: without DHCP nobody told them a better one.

The service is in the namespace of each network, under the same address in all of them. So a packet to it goes
back to the network that it came from: a rule and a table of routes for each interface.

Everything here runs in a thread that is inside the router's namespace.
"""

from __future__ import annotations

from kilonova.network.host import linux
from kilonova.network.host.plan import METADATA_ADDRESS

_TABLES = 1000
"""The table of a device is this and its index in the namespace."""
_PRIORITY = 100
"""Before that of the main table."""


def ensure(ip: linux.Netlink, devices: list[str]) -> list[str]:
    """These devices have their rules and routes, and no others have."""
    indexes = {name: index for name in devices for index in ip.link_lookup(ifname=name)}
    have = {
        rule.get_attr("FRA_IIFNAME"): rule.get_attr("FRA_TABLE")
        for rule in ip.get_rules(family=2)
        if rule.get_attr("FRA_PRIORITY") == _PRIORITY
    }
    wanted = {name: _TABLES + index for name, index in indexes.items()}
    done = []
    for name, table in sorted(have.items()):
        if wanted.get(name) != table:
            ip.rule("del", priority=_PRIORITY, iifname=name, table=table, dst=METADATA_ADDRESS, dst_len=32)
            done.append(f"metadata's rule for {name} removed")
    for name, table in sorted(wanted.items()):
        if not list(ip.get_routes(family=2, table=table)):
            ip.route("add", dst=f"{METADATA_ADDRESS}/32", oif=indexes[name], scope="link", table=table)
            done.append(f"metadata's route for {name} made")
        if have.get(name) != table:
            ip.rule("add", priority=_PRIORITY, iifname=name, table=table, dst=METADATA_ADDRESS, dst_len=32)
            done.append(f"metadata's rule for {name} made")
    return done
