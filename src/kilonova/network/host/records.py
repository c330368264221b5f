"""What this host must remember across a kill -9, in files of one folder.

    ports/<port id>.json              the Vif, written before any device of it is made, removed after the last
    networks/<network id>/transit     which /31 of the transit range the network has
    networks/<network id>/…           its DHCP server's files
    zones/<network or port id>        the number that the connections of its bridge have here
    security.json                     what was told of security groups (knowledge.py)
    ip_forward                        the host's setting before the first network came

Every write is a rename, so a file is whole or absent.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import msgspec

from kilonova import log
from kilonova.domain import codec
from kilonova.domain.errors import BuildFailed
from kilonova.domain.network import Vif

_log = log.get("network.host")

_ZONES = 65535
"""Zones of connections that the kernel can tell apart, without 0."""


def write(path: Path, content: bytes) -> None:
    """The file has this content, from one moment to the next; or, after an OSError, what it had."""
    fresh = path.with_name(f".{path.name}.{threading.get_native_id()}")
    try:
        fresh.write_bytes(content)
        fresh.chmod(0o644)  # dnsmasq reads some of them after it gave up root
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


class Records:
    """The folder, with the ports also in memory: this process is its only writer. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._ports = folder / "ports"
        self._networks = folder / "networks"
        self._zones_folder = folder / "zones"
        self._lock = threading.Lock()
        for path in (folder, self._ports, self._networks, self._zones_folder):
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._vifs = self._load()
        self._zones = self._load_zones()

    def _load(self) -> dict[str, Vif]:
        found = {}
        for path in self._ports.iterdir():
            if path.name.startswith("."):  # a kill came between write()'s two halves
                path.unlink()
                continue
            try:
                vif = codec.from_json(path.read_bytes(), Vif)
            except msgspec.MsgspecError as error:
                # Only a power cut does this, and it took the devices too.
                _log.warning("unreadable port record removed", path=str(path), error=str(error))
                path.unlink()
                continue
            found[vif.port_id] = vif
        return found

    def _load_zones(self) -> dict[str, int]:
        """Without those of networks and ports that are gone."""
        known = self.networks() | self._vifs.keys()
        found = {}
        for path in self._zones_folder.iterdir():
            if path.name in known:
                found[path.name] = int(path.read_bytes())
            else:
                path.unlink()
        return found

    def vifs(self) -> dict[str, Vif]:
        with self._lock:
            return dict(self._vifs)

    def vif(self, port_id: str) -> Vif | None:
        return self._vifs.get(port_id)

    def vifs_of(self, network_id: str) -> list[Vif]:
        with self._lock:
            return [vif for vif in self._vifs.values() if vif.network_id == network_id]

    def put(self, vif: Vif) -> None:
        write(self._ports / f"{vif.port_id}.json", msgspec.json.encode(vif))
        with self._lock:
            self._vifs[vif.port_id] = vif

    def remove(self, port_id: str) -> None:
        (self._ports / f"{port_id}.json").unlink(missing_ok=True)
        with self._lock:
            self._vifs.pop(port_id, None)
            self._forget_zone(port_id)

    def networks(self) -> set[str]:
        """Networks that have a folder, with ports or (after a crash) without."""
        return {path.name for path in self._networks.iterdir()}

    def folder(self, network_id: str) -> Path:
        path = self._networks / network_id
        path.mkdir(mode=0o755, exist_ok=True)
        return path

    def remove_network(self, network_id: str) -> None:
        shutil.rmtree(self._networks / network_id, ignore_errors=True)
        with self._lock:
            self._forget_zone(network_id)

    def transit(self, network_id: str, count: int, is_free: Callable[[int], bool]) -> int:
        """The network's index in the transit range of ``count`` links: the same one each time.

        ``is_free`` says whether the host uses that link for something else.

        A new network starts looking at a place its UUID decides, so that another folder would most often
        give it the same link. Index 0 stays free: its address would look like a network's.
        """
        with self._lock:
            known = self._transit(network_id)
            if known is not None:
                return known
            taken = {self._transit(other) for other in self.networks()}
            start = crc32(network_id.encode())
            for step in range(count):
                index = (start + step) % count
                if index and index not in taken and is_free(index):
                    write(self.folder(network_id) / "transit", str(index).encode())
                    return index
        raise BuildFailed("network.transit_cidr has no link left for another network")

    def zone(self, owner: str) -> int:
        """The number that the connections of this network's, or port's, bridge have on this host: the same
        one each time, of no other bridge here, and never 0, which is everybody else's."""
        with self._lock:
            known = self._zones.get(owner)
            if known is None:
                taken = set(self._zones.values())
                start = crc32(owner.encode())
                ring = ((start + step) % _ZONES + 1 for step in range(_ZONES))
                known = next(number for number in ring if number not in taken)
                write(self._zones_folder / owner, str(known).encode())
                self._zones[owner] = known
            return known

    def _forget_zone(self, owner: str) -> None:
        if self._zones.pop(owner, None) is not None:
            (self._zones_folder / owner).unlink(missing_ok=True)

    def _transit(self, network_id: str) -> int | None:
        content = read(self._networks / network_id / "transit")
        return int(content) if content else None
