"""How the taps of guests are joined to their networks on a host: the protocol of the three plugs.

LinuxHost (host.py) records a port, makes its tap, loads its rules, and asks the plug to join it. What all
plugs have alike is not theirs: the tap itself, the network's namespace with DHCP, metadata and gateway, the
way out.

A plug keeps nothing that it could look up: every method observes first and does what is missing, so it is
safe to call again after a kill -9 between any two of its acts. BuildFailed and Unavailable say what could not
be made. All methods are called in the host's own network namespace; those that name a network or a port,
under the lock of that network.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import Enum
from typing import NamedTuple, Protocol

from kilonova.domain.network import PlugKind, Vif
from kilonova.domain.routers import RouterInterface
from kilonova.network.host.linux import Netlink
from kilonova.network.host.plan import NetworkPlan
from kilonova.network.host.router_plan import Device

Known = Callable[[], Collection[str]]
"""The ids (or names) that the host's records have at the moment of the call."""


class Filters(Enum):
    """Where the rules of a port meet its packets: that decides in whose language they must be said."""

    BRIDGE = "bridge"
    """The tap is on a Linux bridge: nftables' bridge family, by tap name (firewall.py, perimeter.py), with
    security groups (security.py)."""
    SWITCH = "switch"
    """The tap is on the switch: flows, by its number there (switch/flows.py); the plug loads them."""


class Bridge(NamedTuple):
    name: str
    owner: str
    """The id of the network, or the port, that it is the bridge of. Its connections are told apart by that:
    a bridge of one port alone knows what that port let in, whatever another let out."""


class Plug(Protocol):
    kind: PlugKind
    filters: Filters

    def ensure_network(self, ip: Netlink, plan: NetworkPlan) -> list[str]:
        """The network's gate, the veth whose other end is GUESTS in the namespace, is joined to the network.
        The namespace is there. A line for each thing that had to be made."""

    def ensure_port(self, ip: Netlink, vif: Vif) -> list[str]:
        """The tap, which is there, is joined to its network and up. With ``Filters.SWITCH`` its rules are in
        force before it is."""

    def remove_port(self, port_id: str) -> list[str]:
        """Nothing of ensure_port() is left but the tap, which is the host's, and these devices: whoever asks
        removes them, the tap at the same time if it goes too."""

    def remove_network(self, network_id: str, routed: bool = False) -> None:
        """Nothing of ensure_network() is left. Its ports are gone, or go at this moment. ``routed``: a router
        is on the network, and what its device there needs stays."""

    def ensure_router(self, ip: Netlink, space: str, device: Device) -> list[str]:
        """A router's device, a veth whose one end is in the namespace ``space``, is joined to its network by
        the other one and up, whether or not the network has guests here."""

    def keep_routers(self, links: Collection[str]) -> None:
        """Of the ends that ensure_router() has joined, none but these are. The devices may be gone."""

    def refresh(self) -> None:
        """What is known of ports and their groups holds from now on; the rules of ``Filters.BRIDGE`` are none
        of its business."""

    def ensure_tunnel(self, ip: Netlink, network_id: str, device: str, mtu: int) -> list[str]:
        """The device, which leads to the network's other hosts, is joined to the network by a Linux bridge
        of the host's: rules see what passes between the two."""

    def remove_tunnel(self, network_id: str) -> None:
        """Nothing of ensure_tunnel() is left. The device is gone."""

    def tunnel_bridge(self, network_id: str) -> str | None:
        """The bridge of ensure_tunnel() if it has no other use."""

    def changed(self) -> bool:
        """Whether something may have changed since the last call that the kernel's notices do not tell."""

    def on_change(self, tell: Callable[[], None]) -> None:
        """``tell()`` is called, in another thread, with each such change."""

    def settle(self) -> list[str]:
        """What concerns all ports at once is in order; called by each repair, after all of ensure_…()."""

    def look(self) -> list[str]:
        """What settle() would put in order. Makes nothing, and may be asked in another process."""

    def look_at(self, vifs: Collection[Vif], interfaces: Collection[RouterInterface]) -> list[str]:
        """What ensure_network(), ensure_port() and ensure_router() would set right of what is there of these,
        beside devices. Makes nothing, as look()."""

    def sweep(self, networks: Known, ports: Known, routers: Known) -> None:
        """Nothing is left of networks, ports and ends of routers' devices that this host made and has no
        record of. A record is there before, and until after, all that is joined for it. ``routers``: names of
        those ends."""

    def bridge(self, vif: Vif) -> Bridge | None:
        """The Linux bridge that the guest's frames pass; with ``Filters.SWITCH`` there is none."""

    def inner(self, vif: Vif) -> list[str]:
        """The devices on that bridge that lead to the network: not the tap."""

    def stop(self) -> None:
        """Let go of what this process holds; the ports stay joined."""
