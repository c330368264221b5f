"""The tunnels of this host: each network that is on other hosts too is joined to its part there.

What was told of them is kept in one file, so that an agent that is killed and started again has the same
until it has asked. A device may be there for every network that the file names.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from zlib import crc32

import msgspec

from kilonova import log
from kilonova.config import Network
from kilonova.domain import codec
from kilonova.domain.errors import BuildFailed
from kilonova.domain.network import MAX_VNI, NetworkTunnel
from kilonova.network.host import audit, linux, names, nft, records, tunnel_device, tunnel_rules
from kilonova.network.host.plug import Plug
from kilonova.network.host.tunnel_rules import Guarded

_log = log.get("network.tunnels")

_FILE = "tunnels.json"
_FAMILIES = ("bridge", "inet", "arp")
_KEPT = 600.0
"""Seconds for which is remembered what was told of a network that is not here (yet)."""


class Tunnels:
    """What names a network is called under that network's lock (host.py)."""

    def __init__(self, config: Network, folder: Path, plug: Plug) -> None:
        self.address = config.tunnel_address or None
        self._port = config.tunnel_port
        self._plug = plug
        self._path = folder / _FILE
        self._table = table_name(folder)
        self._lock = threading.Lock()
        self._known = told(folder)
        self._asked: dict[str, float] = {}
        self._there = set(self._known)
        """Networks whose tunnel is, or may be, there."""
        self._open: dict[str, Guarded] = {}
        self._loaded: tuple[nft.Table, ...] | None = None
        self._begun = False

    def begin(self, addresses_of: Callable[[str], list[str]]) -> list[str]:
        """Once, again if it failed: a host that takes no tunnels has no rules for them. What an earlier run
        may have left open is ruled from the first moment, as ensure() rules it; what of it should not be, the
        host removes."""
        with self._lock:
            if self._begun:
                return []
            if self.address is None:
                self._unload()
            else:
                for network_id, tunnel in self._known.items():
                    if tunnel.peers:
                        own = guarded(self._plug, network_id, tunnel, addresses_of(network_id))
                        self._open.setdefault(network_id, own)
                self._load_rules()
            self._begun = True
        return []

    def networks(self) -> set[str]:
        """Those whose tunnel is, or may be, there."""
        return set(self._there)

    def concerns(self, network_id: str) -> bool:
        """Whether ensure() or remove() has anything to do for it; most often not, and that costs nothing."""
        tunnel = self._known.get(network_id) if self.address else None
        return network_id in self._there or (tunnel is not None and bool(tunnel.peers))

    def learn(self, told: dict[str, NetworkTunnel], asked: float, here: set[str]) -> set[str]:
        """Keep what is newer than what is known; the networks whose tunnel is not, or may not be, as was
        told. ``here``: they are on this host. What cannot be is left out, and what was known of that network
        stays."""
        told = {network_id: tunnel for network_id, tunnel in told.items() if _is_sound(network_id, tunnel)}
        with self._lock:
            newer = {key for key in told if self._asked.get(key, 0.0) <= asked}
            before = dict(self._known)
            for key in newer:
                self._known[key], self._asked[key] = told[key], asked
            past = time.monotonic() - _KEPT
            for key in self._known.keys() - here - self._there:
                if self._asked.get(key, 0.0) < past:
                    del self._known[key]
            if before != self._known:
                records.write(self._path, msgspec.json.encode(self._known))
            return {key for key in newer if before.get(key) != told[key] or self._is_behind(key, here)}

    def _is_behind(self, network_id: str, here: set[str]) -> bool:
        """What was done for it before is not what is known; or it failed."""
        wanted = self.address is not None and network_id in here and bool(self._known[network_id].peers)
        return wanted != (network_id in self._there)

    def ensure(self, ip: linux.Netlink, network_id: str, mtu: int, addresses: list[str]) -> list[str]:
        """The network, which is here, is joined to its other hosts, if there are any; a line for each thing
        that had to be made. ``addresses``: the namespace's own."""
        tunnel = self._known.get(network_id)
        if self.address is None or tunnel is None or not tunnel.peers:
            return self.remove(network_id)
        name = names.tunnel(network_id)
        self._there.add(network_id)
        self._guard(network_id, tunnel, addresses)
        done = tunnel_device.ensure(
            ip,
            name,
            vni=tunnel.segmentation_id,
            local=self.address,
            port=self._port,
            peers=tunnel.peers,
            mtu=mtu,
        )
        return done + self._plug.ensure_tunnel(ip, network_id, name, mtu)

    def remove(self, network_id: str) -> list[str]:
        """Nothing of the network's tunnel is left; a line if there was one."""
        if network_id not in self._there:
            return []
        name = names.tunnel(network_id)
        was = linux.find(name) is not None
        with linux.making(f"removing {name}"):
            linux.delete_link(name)
        self._plug.remove_tunnel(network_id)
        self._there.discard(network_id)
        with self._lock:
            if self._open.pop(network_id, None) is not None:
                self._load_rules()
        return [f"device {name} removed: the network is on no other host"] if was else []

    def repair(self, rules: bool) -> list[str]:
        """Who is sent what is for everybody, and the rules if asked; the devices are ensure()'s."""
        done = []
        with self._lock:
            if self.address is None:
                return []
            if rules:
                wanted = self._wanted()
                done += [line for table in wanted for line in audit.problems(table)]
                if done:
                    self._replace(wanted)
            opened = dict(self._open)
        # Not under the lock, for which plugs wait: any guest may make such a table long.
        for network_id in sorted(opened):
            done += self._repair_peers(network_id, opened[network_id])
        return done

    def _repair_peers(self, network_id: str, seen: Guarded) -> list[str]:
        name = names.tunnel(network_id)
        if linux.find(name) is None or tunnel_device.peers_of(name) == set(seen.peers):
            return []
        with self._lock:  # it may have been told others meanwhile
            now = self._open.get(network_id)
            if now is None:
                return []
            with linux.netlink() as ip:
                return tunnel_device.ensure_peers(ip, name, now.peers)

    def _guard(self, network_id: str, tunnel: NetworkTunnel, addresses: list[str]) -> None:
        """Its rules are loaded."""
        wanted = guarded(self._plug, network_id, tunnel, addresses)
        with self._lock:
            if self._open.get(network_id) != wanted or self._loaded is None:
                self._open[network_id] = wanted
                self._load_rules()

    # --- rules, under the lock
    def _wanted(self) -> tuple[nft.Table, ...]:
        return tunnel_rules.tables(self._table, self._port, self._open, self._plug.kind != "bridge")

    def _load_rules(self) -> None:
        wanted, loaded = self._wanted(), self._loaded
        if loaded is None:
            self._replace(wanted)
            return
        pairs = zip(loaded, wanted, strict=True)
        try:
            nft.apply([command for before, after in pairs for command in nft.difference(before, after)])
        except BuildFailed:  # somebody flushed them
            self._replace(wanted)
        self._loaded = wanted

    def _replace(self, wanted: tuple[nft.Table, ...]) -> None:
        nft.apply([command for table in wanted for command in nft.replace(table)])
        self._loaded = wanted

    def _unload(self) -> None:
        nft.apply([c for family in _FAMILIES for c in nft.delete_table(family, self._table)])
        self._loaded = None


def told(folder: Path) -> dict[str, NetworkTunnel]:
    """Network id → its tunnel, as that host part was told last."""
    path = folder / _FILE
    content = records.read(path)
    try:
        return codec.from_json(content, dict[str, NetworkTunnel]) if content else {}
    except msgspec.MsgspecError as error:
        # Only a power cut does this, and it took the devices too.
        _log.warning("unreadable record of tunnels", path=str(path), error=str(error))
        return {}


def table_name(folder: Path) -> str:
    return f"kilonova-tunnels-{crc32(str(folder.resolve()).encode()):08x}"


def guarded(plug: Plug, network_id: str, tunnel: NetworkTunnel, addresses: list[str]) -> Guarded:
    """``addresses``: the namespace's own, with their prefix lengths; ARP is for those of IPv4."""
    own = [address.partition("/")[0] for address in addresses]
    return Guarded(
        network_id=network_id,
        segmentation_id=tunnel.segmentation_id,
        peers=sorted(tunnel.peers),
        addresses=sorted({address for address in own if ":" not in address}),
        bridge=plug.tunnel_bridge(network_id),
    )


def _is_sound(network_id: str, tunnel: NetworkTunnel) -> bool:
    """Whether it holds nothing that must not come near a rule or a device."""
    try:
        names.checked("network", network_id)
        if not 1 <= tunnel.segmentation_id <= MAX_VNI:
            raise ValueError(f"{tunnel.segmentation_id} is no VXLAN identifier")
        for address in tunnel.peers:
            IPv4Address(address)
    except (BuildFailed, ValueError) as error:
        _log.warning("tunnel_refused", network_id=network_id, error=str(error))
        return False
    return True
