"""At which address this host takes tunnels: the configured one, or the one it reaches the broker from."""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

import click
from msgspec import structs

from kilonova.bus.rabbit.broker import brokers
from kilonova.config import Config
from kilonova.domain.network import VXLAN_OVERHEAD
from kilonova.network.host import linux


def settled(config: Config, say: Callable[[str], None]) -> Config:
    """The configuration with ``tunnel_address`` as it is meant; empty: no tunnels. ClickException: the
    address is none of this host's."""
    address = _address(config, say)
    if address:
        _check_mtu(address, config.network.mtu, say)
    return structs.replace(config, network=structs.replace(config.network, tunnel_address=address))


def _address(config: Config, say: Callable[[str], None]) -> str:
    asked = config.network.tunnel_address
    if not config.has_tunnels:
        return ""
    if asked:
        if _link_of(asked) is None:
            raise click.ClickException(f"[network] tunnel_address {asked} is no address of this host")
        return asked
    own = towards(brokers(config.bus.url)[0].host)
    if own is None:
        say("no tunnels to other hosts: the broker is not reached by IPv4: set [network] tunnel_address")
    return "" if own is None or IPv4Address(own).is_loopback else own


def towards(host: str) -> str | None:
    """Our address, as that host would see it; nothing is sent to find it. None: there is no way by IPv4."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return None


def _check_mtu(address: str, mtu: int, say: Callable[[str], None]) -> None:
    link = _link_of(address)
    own = _mtu_of(link) if link is not None else mtu
    if own < mtu:
        say(
            f"warning: the link of {address} carries {own} octets: set [network] mtu = {own} on the control"
            f" node and all hosts, so that networks get {own - VXLAN_OVERHEAD}"
        )


def _mtu_of(link: Any) -> int:
    return int(link.get_attr("IFLA_MTU"))


def _link_of(address: str) -> Any:
    """The interface that has the address; None: there is none."""
    with linux.netlink() as ip:
        found = ip.get_addr(family=socket.AF_INET, address=address)
        return ip.link("get", index=found[0]["index"])[0] if found else None
