"""What a guest on the switch may send, as flows in ovs-ofctl(8)'s words. Pure.

    table 0     a guarded port's packets go to table 110; in a bridge of ours all others pass
    table 110   what is of the port's own MAC and addresses passes; all else is dropped

What may be in a Vif is checked before (plan.check), so nothing of a user's can be a word of another meaning.
"""

from __future__ import annotations

from kilonova.domain.network import Vif
from kilonova.network.host.firewall import allowed

_GUARD = 110
"""Neutron's agent has tables up to 94."""

_UNTAGGED = "vlan_tci=0x0000/0x1fff"
"""No VLAN header, as the switch writes it itself. (Without this, ``ip`` is any IP within one, too.)"""


def cookie(owner: int, port_id: str | None = None) -> str:
    """Of a port's flows, or of those that no port has: half whose they are, half the port."""
    return f"0x{owner << 32 | (int(port_id[:8], 16) if port_id else 0):x}"


def cookies(owner: int) -> str:
    """Of all flows of this owner, as a match."""
    return f"0x{owner << 32:x}/0xffffffff00000000"


def base(owner: int) -> str:
    """In a bridge that passes nothing by itself: it is a switch, with VLANs and learning."""
    return f"cookie={cookie(owner)},table=0,priority=0,actions=NORMAL"


def guard(owner: int, vif: Vif, number: int) -> list[str]:
    """The port's flows; none without port security."""
    if not vif.port_security:
        return []
    own = f"cookie={cookie(owner, vif.port_id)}"
    port = f"{own},table={_GUARD},in_port={number}"
    pairs = allowed(vif)
    macs = sorted({mac for mac, _ in pairs} | {vif.mac.lower()})
    passing = [
        # Asking for DHCP without an address; an ARP probe's sender (RFC 5227).
        *(f"udp,nw_src=0.0.0.0,tp_src=68,tp_dst=67,dl_src={mac}" for mac in macs),
        *(f"arp,dl_src={mac},arp_sha={mac},arp_spa=0.0.0.0" for mac in macs),
        *(f"arp,dl_src={mac},arp_sha={mac},arp_spa={_address(ip)}" for mac, ip in pairs),
    ]
    return [
        f"{own},table=0,priority=100,in_port={number},actions=resubmit(,{_GUARD})",
        # No DHCP server.
        f"{port},priority=90,udp,tp_src=67,actions=drop",
        f"{port},priority=90,udp,tp_dst=68,actions=drop",
        *(f"{port},priority=80,{_UNTAGGED},{match},actions=NORMAL" for match in passing),
        *(
            f"{port},priority=70,{_UNTAGGED},ip,dl_src={mac},nw_src={_address(ip)},actions=NORMAL"
            for mac, ip in pairs
        ),
        f"{port},priority=0,actions=drop",
    ]


def _address(network: str) -> str:
    return network.removesuffix("/32")
