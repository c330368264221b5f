"""Names on the host, all of them from UUIDs (invariant 5), so that leftovers are found without the database.

Linux allows 15 characters for a device, so devices carry the first 11 of the UUID, as Neutron's do.
``Vif.tap`` and ``Vif.bridge`` are the other two.
"""

from __future__ import annotations

from uuid import UUID

from kilonova.domain.errors import BuildFailed

GUESTS = "guests"
"""In a network's namespace: the end that leads to the bridge and its guests."""

UPLINK = "uplink"
"""In a network's namespace: the end that leads to the host and the outside."""


def namespace(network_id: str) -> str:
    """The network's namespace: its DHCP server, metadata, gateway and NAT."""
    return f"kn-{network_id}"


def guests_mac(network_id: str) -> str:
    """Of GUESTS, always the same: so guests find their gateway again when it had to be made anew."""
    return ":".join(["02", *(f"{byte:02x}" for byte in UUID(network_id).bytes[:5])])


def gate(network_id: str) -> str:
    """On the host, a port of the bridge: the other end of GUESTS."""
    return f"knb{network_id[:11]}"


def transit(network_id: str) -> str:
    """On the host: the other end of UPLINK."""
    return f"knt{network_id[:11]}"


def tunnel(network_id: str) -> str:
    """On the host: the device that leads to the network's other hosts."""
    return f"knv{network_id[:11]}"


def tunnel_bridge(network_id: str) -> str:
    """The Linux bridge between a tunnel and the switch."""
    return f"knw{network_id[:11]}"


def tunnel_inner(network_id: str) -> str:
    """The end, on that bridge, of the veth pair to the switch."""
    return f"kni{network_id[:11]}"


def tunnel_outer(network_id: str) -> str:
    """The end that is on the switch."""
    return f"kno{network_id[:11]}"


def bridge(network_id: str) -> str:
    """As ``Vif.bridge``, for a network that has no port any more."""
    return f"brq{network_id[:11]}"


def tap(port_id: str) -> str:
    """As ``Vif.tap``, for a port of which nothing else is known any more."""
    return f"tap{port_id[:11]}"


def qbr(port_id: str) -> str:
    """The Linux bridge of a port, between its tap and QVB (Neutron's name, as those of the pair)."""
    return f"qbr{port_id[:11]}"


def qvb(port_id: str) -> str:
    """The end of the veth pair that is on the port's bridge."""
    return f"qvb{port_id[:11]}"


def qvo(port_id: str) -> str:
    """The end of the veth pair that is on the switch."""
    return f"qvo{port_id[:11]}"


def checked(kind: str, value: str) -> str:
    """``value`` if it is a UUID in its canonical form, fit for names and paths; BuildFailed if not."""
    try:
        if str(UUID(value)) == value:
            return value
    except ValueError:
        pass
    raise BuildFailed(f"{kind} {value!r} is not a UUID")


# Routers
ROUTER_LINK = "knr"
"""How the names of router_link() begin."""


def router(router_id: str) -> str:
    """The router's namespace: its addresses, routes and NAT."""
    return f"kr-{router_id}"


def router_link(port_id: str) -> str:
    """On the host, joined to a network: the other end of a router's interface or gateway."""
    return f"{ROUTER_LINK}{port_id[:11]}"


def router_inside(port_id: str) -> str:
    """In a router's namespace: an interface (Neutron's name)."""
    return f"qr-{port_id[:11]}"


def router_gateway(port_id: str) -> str:
    """In a router's namespace: the way to the external network (Neutron's name)."""
    return f"qg-{port_id[:11]}"


def external(network_id: str) -> str:
    """The bridge of an external network."""
    return f"knx{network_id[:11]}"
