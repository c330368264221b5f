"""What this host was told of its ports' security groups, kept across a kill -9 in one file.

What was asked for later counts: answers may come in any order.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from kilonova import log
from kilonova.domain import codec
from kilonova.domain.network import NetworkState, PortSecurity, Vif
from kilonova.domain.security_groups import Filter
from kilonova.network.host import records
from kilonova.network.host.security import remotes_of

_log = log.get("network.host")

T = TypeVar("T")

_LATEST = 600.0
"""Seconds after which an answer is under way no more."""


class Known(msgspec.Struct, frozen=True):
    """All that is known at one moment."""

    ports: dict[str, PortSecurity] = {}
    groups: dict[str, list[Filter]] = {}
    all_members: dict[str, list[str]] = {}

    def applied(self, vif: Vif) -> Vif:
        """The vif as it is by the latest word."""
        port = self.ports.get(vif.port_id)
        if port is None:
            return vif
        return msgspec.structs.replace(
            vif,
            port_security=port.port_security,
            allowed_address_pairs=port.allowed_address_pairs,
            security_groups=port.security_groups,
        )

    def filters(self, group_id: str) -> list[Filter]:
        """Of a group that nothing is known of: none, so that nothing passes."""
        return self.groups.get(group_id, [])

    def members(self, group_id: str) -> list[str]:
        return self.all_members.get(group_id, [])

    def using(self, vifs: Iterable[Vif], ids: set[str]) -> set[str]:
        """Of these ports, and of those that will be plugged: who is in one of these groups, or in one with a
        rule about them."""
        groups = {vif.port_id: vif.security_groups or [] for vif in vifs}
        groups |= {port.port_id: port.security_groups for port in self.ports.values()}
        return {
            port_id
            for port_id, its in groups.items()
            if any(group in ids or remotes_of(self.filters(group)) & ids for group in its)
        }

    def pruned(self) -> Known:
        """Without what no port needs."""
        wanted = {group for port in self.ports.values() for group in port.security_groups}
        groups = {key: value for key, value in self.groups.items() if key in wanted}
        remotes = {remote for filters in groups.values() for remote in remotes_of(filters)}
        members = {key: value for key, value in self.all_members.items() if key in remotes}
        return Known(self.ports, groups, members)


class Knowledge:
    """Thread-safe: ``now`` is replaced as a whole, and never changed."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "security.json"
        self._lock = threading.Lock()
        self.now = Known()
        self._asked: dict[str, float] = {}
        """Id → when what is known of it was asked for, by this process's clock."""
        self._load()

    def learn(self, state: NetworkState, asked: float) -> None:
        """Keep what is newer than what is known."""
        with self._lock:
            ports = {port.port_id: port for port in state.ports}
            before = self.now
            known = Known(
                before.ports | self._newer("port", ports, asked),
                before.groups | self._newer("group", state.groups, asked),
                before.all_members | self._newer("members", state.members, asked),
            ).pruned()
            self._asked = {key: at for key, at in self._asked.items() if asked - at < _LATEST}
            if known != before:
                self._keep(known)

    def forget(self, port_id: str) -> None:
        """The port is gone, and with the last port in a group all that is known of it. No answer that is
        under way brings it back."""
        with self._lock:
            self._asked[f"port {port_id}"] = time.monotonic()
        self._keep_ports(lambda known: known != port_id)

    def keep_only(self, ports: Collection[str]) -> None:
        """A process that was killed may have learned of ports that it never plugged."""
        self._keep_ports(lambda known: known in ports)

    def _keep_ports(self, wanted: Callable[[str], bool]) -> None:
        with self._lock:
            before = self.now
            kept = {port_id: port for port_id, port in before.ports.items() if wanted(port_id)}
            if len(kept) < len(before.ports):
                self._keep(Known(kept, before.groups, before.all_members).pruned())

    def _newer(self, kind: str, told: dict[str, T], asked: float) -> dict[str, T]:
        newer = {}
        for key, value in told.items():
            if self._asked.get(f"{kind} {key}", 0.0) <= asked:
                self._asked[f"{kind} {key}"] = asked
                newer[key] = value
        return newer

    def _keep(self, known: Known) -> None:
        self.now = known
        state = NetworkState(ports=list(known.ports.values()), groups=known.groups, members=known.all_members)
        records.write(self._path, msgspec.json.encode(state))

    def _load(self) -> None:
        content = records.read(self._path)
        if content is None:
            return
        try:
            state = codec.from_json(content, NetworkState)
        except msgspec.MsgspecError as error:
            # Only a power cut does this. The ports are closed until the conductor has been asked.
            _log.warning("unreadable security record removed", path=str(self._path), error=str(error))
            self._path.unlink()
            return
        self.now = Known({port.port_id: port for port in state.ports}, state.groups, state.members)
