"""The bridges of external networks on this host, and what routers need of the host beside them: two tables.

On one machine the host itself is the external network's gateway, and hides its addresses behind its own
([network] nat). With [network] external_interface that interface is on one bridge for all external networks,
and the gateway is out there.
"""

from __future__ import annotations

import threading
from pathlib import Path
from zlib import crc32

from kilonova.config import Network
from kilonova.domain.errors import BuildFailed
from kilonova.domain.routers import RouterGateway
from kilonova.network.host import audit, linux, names, nft, past_switch, router_rules
from kilonova.network.host.forwarding import Forwarding

_OWNER = "external networks"
_FAMILIES = ("inet", "bridge", "arp")


class External:
    def __init__(self, config: Network, folder: Path, forwarding: Forwarding) -> None:
        self._config = config
        self._forwarding = forwarding
        self._table = f"kilonova-r-{crc32(str(folder.resolve()).encode()):08x}"
        self._lock = threading.Lock()

    @property
    def shared_bridge(self) -> str | None:
        """The one of all external networks, if they are on an interface of the host's."""
        interface = self._config.external_interface
        return f"knx{crc32(interface.encode()):08x}" if interface else None

    def bridge(self, network_id: str) -> str:
        return self.shared_bridge or names.external(network_id)

    def ensure_bridge(self, gateway: RouterGateway) -> list[str]:
        """The network's bridge is there: with the interface on it, or with the gateway's addresses."""
        name = self.bridge(gateway.network_id)
        with linux.netlink() as ip:
            done = linux.ensure_bridge(ip, name, gateway.mtu)
            master = linux.find(name)
            assert master is not None, f"made before: {name}"
            if self._config.external_interface:
                return done + self._ensure_interface(ip, master.index)
            return done + _ensure_addresses(ip, name, master.index, self.addresses(gateway))

    def addresses(self, gateway: RouterGateway) -> list[str]:
        """Those that the network's bridge has, with their prefix lengths: the host is its gateway."""
        if self._config.external_interface:
            return []
        return [
            f"{subnet.gateway_ip}/{subnet.cidr.partition('/')[2]}"
            for subnet in gateway.subnets
            if subnet.gateway_ip
        ]

    def expect(self) -> None:
        """There were external networks in an earlier run: the host goes on to forward for them."""
        self._forwarding.expect(_OWNER)

    def remove_bridge(self, name: str) -> None:
        with linux.making(f"removing {name}"):
            linux.delete_link(name)

    def ensure_rules(self, gateways: list[RouterGateway], inner: list[str], look: bool) -> list[str]:
        """The host's tables are right for these gateways, and for these ends of routers' interfaces."""
        with self._lock:
            forwards = gateways and not self._config.external_interface
            done = self._forwarding.hold(_OWNER) if forwards else self._forwarding.release(_OWNER)
            if not look:
                return done
            tables = self.tables(gateways, inner)
            problems = [line for table in tables for line in audit.problems(table)]
            if problems:
                nft.apply([command for table in tables for command in nft.replace(table)])
            return done + problems

    def tables(self, gateways: list[RouterGateway], inner: list[str]) -> list[nft.Table]:
        """What should be loaded for these."""
        outer = sorted({self.bridge(gateway.network_id) for gateway in gateways})
        own = not self._config.external_interface
        cidrs = sorted({subnet.cidr for gateway in gateways for subnet in gateway.subnets}) if own else []
        switched = None if self._config.plug == "bridge" else sorted(inner)
        return [
            router_rules.host_table(self._table, outer, cidrs, self._config.nat, switched),
            router_rules.bridge_table(self._table, sorted(inner)),
            *([] if switched is None else [past_switch.arp_table(self._table, switched)]),
        ]

    def remove_rules(self) -> None:
        with self._lock:
            nft.apply([c for family in _FAMILIES for c in nft.delete_table(family, self._table)])
            self._forwarding.release(_OWNER)

    def _ensure_interface(self, ip: linux.Netlink, bridge: int) -> list[str]:
        name = self._config.external_interface
        link = linux.find(name)
        if link is None:
            raise BuildFailed(f"[network] external_interface: there is no {name}")
        if link.master not in (None, bridge):
            raise BuildFailed(f"[network] external_interface: {name} is on another bridge")
        if link.master is None and any(ip.get_addr(family=2, index=link.index)):
            raise BuildFailed(
                f"[network] external_interface: {name} has addresses, which it would lose on a bridge"
            )
        return linux.ensure_set(name, mtu=link.mtu, master=bridge)


def _ensure_addresses(ip: linux.Netlink, name: str, index: int, wanted: list[str]) -> list[str]:
    """The bridge has these addresses. Others stay: they are somebody's who knew why."""
    with linux.making(f"addresses of {name}"):
        have = {f"{m.get_attr('IFA_LOCAL')}/{m['prefixlen']}" for m in ip.get_addr(family=2, index=index)}
        missing = [text for text in wanted if text not in have]
        for text in missing:
            address, _, length = text.partition("/")
            ip.addr("add", index=index, address=address, prefixlen=int(length))
    return [f"address {text} of {name} set" for text in missing]
