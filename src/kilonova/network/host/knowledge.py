"""What this host was told of its ports' security groups, kept across a kill -9 in one file.

What was asked for later counts: answers may come in any order.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
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


class Knowledge:
    """Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "security.json"
        self._lock = threading.Lock()
        self._ports: dict[str, PortSecurity] = {}
        self._groups: dict[str, list[Filter]] = {}
        self._members: dict[str, list[str]] = {}
        self._asked: dict[str, float] = {}
        """Id → when what is known of it was asked for, by this process's clock."""
        self._load()

    def learn(self, state: NetworkState, asked: float) -> None:
        """Keep what is newer than what is known."""
        with self._lock:
            before = (dict(self._ports), dict(self._groups), dict(self._members))
            ports = {port.port_id: port for port in state.ports}
            self._ports |= self._newer("port", ports, asked)
            self._groups |= self._newer("group", state.groups, asked)
            self._members |= self._newer("members", state.members, asked)
            self._prune()
            if before != (self._ports, self._groups, self._members):
                self._save()

    def forget(self, port_id: str) -> None:
        """The port is gone, and with the last port in a group all that is known of it."""
        with self._lock:
            if self._ports.pop(port_id, None) is not None:
                self._prune()
                self._save()

    def applied(self, vif: Vif) -> Vif:
        """The vif as it is by the latest word."""
        port = self._ports.get(vif.port_id)
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
        return self._groups.get(group_id, [])

    def members(self, group_id: str) -> list[str]:
        return self._members.get(group_id, [])

    def using(self, vifs: Iterable[Vif], ids: set[str]) -> set[str]:
        """Of these ports, and of those that will be plugged: who is in one of these groups, or in one with a
        rule about them."""
        with self._lock:
            groups = {vif.port_id: vif.security_groups or [] for vif in vifs}
            groups |= {port.port_id: port.security_groups for port in self._ports.values()}
            return {
                port_id
                for port_id, its in groups.items()
                if any(group in ids or remotes_of(self.filters(group)) & ids for group in its)
            }

    def _newer(self, kind: str, told: dict[str, T], asked: float) -> dict[str, T]:
        newer = {}
        for key, value in told.items():
            if self._asked.get(f"{kind} {key}", 0.0) <= asked:
                self._asked[f"{kind} {key}"] = asked
                newer[key] = value
        return newer

    def _prune(self) -> None:
        groups = {group for port in self._ports.values() for group in port.security_groups}
        self._groups = {key: value for key, value in self._groups.items() if key in groups}
        remotes = {remote for filters in self._groups.values() for remote in remotes_of(filters)}
        self._members = {key: value for key, value in self._members.items() if key in remotes}

    def _save(self) -> None:
        state = NetworkState(ports=list(self._ports.values()), groups=self._groups, members=self._members)
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
        self._ports = {port.port_id: port for port in state.ports}
        self._groups, self._members = dict(state.groups), dict(state.members)
