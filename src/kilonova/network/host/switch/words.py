"""What is written beside our ports and bridge in the switch's database, in the columns external_ids.

``iface-id`` and its companions are what every OpenStack host writes; the others are ours.
"""

from __future__ import annotations

from kilonova.domain.network import Vif

OWNER = "kilonova"
"""Of a port: which host part (its folder) made it. Of the bridge: that one of ours made it."""

NETWORK = "kilonova-network"
"""Of a port: its network's id."""

DEVICE = "kilonova-ifindex"
"""Of a port: the number of the device that the switch was given. A device of the same name that was made anew
has another, and the switch would go on with the old one."""

_TAG = "kilonova-vlan-"
"""Of the bridge, with a network's id after it: the network's local VLAN tag."""


def tag_key(network_id: str) -> str:
    return f"{_TAG}{network_id}"


def tags(words: dict[str, str]) -> dict[str, int]:
    """Network → local VLAN tag, as the bridge has it."""
    return {
        key.removeprefix(_TAG): int(value)
        for key, value in words.items()
        if key.startswith(_TAG) and value.isdigit()
    }


def of_port(vif: Vif) -> dict[str, str]:
    words = {"iface-id": vif.port_id, "attached-mac": vif.mac, "iface-status": "active"}
    return words | ({"vm-uuid": vif.server_id} if vif.server_id else {}) | {NETWORK: vif.network_id}


def of_gate(network_id: str) -> dict[str, str]:
    return {NETWORK: network_id}
