"""What is wrong with a host's tunnels at this moment, against its own records (look.py)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from kilonova.config import Network
from kilonova.network.host import linux, names, tunnel_device, tunnel_rules, tunnels
from kilonova.network.host.look_routers import rule_problems
from kilonova.network.host.plug import Plug


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Of a network, on this host. ``addresses``: its namespace's own, if guests are here."""

    mtu: int
    addresses: list[str] = []


def tunnel_problems(folder: Path, config: Network, plug: Plug, here: Mapping[str, Part]) -> list[str]:
    """``here``: by network."""
    known = tunnels.told(folder)
    there = {key: known[key] for key in here.keys() & known.keys() if known[key].peers}
    if not there or not config.tunnels:
        return []
    found = []
    for network_id, tunnel in sorted(there.items()):
        name = names.tunnel(network_id)
        link = linux.find(name)
        if link is None:
            found.append(f"device {name} is missing: network {network_id} is on this host alone")
            continue
        if not link.up or link.master is None or link.mtu != here[network_id].mtu:
            found.append(f"device {name} is not as it should be")
        if tunnel_device.peers_of(name) != set(tunnel.peers):
            found.append(f"device {name} does not lead to the hosts that network {network_id} is on")
    guarded = {key: tunnels.guarded(plug, key, tunnel, here[key].addresses) for key, tunnel in there.items()}
    tables = tunnel_rules.tables(
        tunnels.table_name(folder), config.tunnel_port, guarded, plug.kind != "bridge"
    )
    return found + rule_problems(list(tables))
