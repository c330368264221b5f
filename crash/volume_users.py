"""The users' volumes while everything dies: made, copied, attached, detached, swapped, grown, moved,
reverted, booted from and deleted."""

from __future__ import annotations

from random import Random
from typing import Any

from crash.cluster import NOT_NOW, Cluster


class VolumeUsers:
    """``servers``: the ids of those that there may be, which others fill. Not for several threads."""

    def __init__(self, cluster: Cluster, seed: int, servers: list[str]) -> None:
        self._cluster = cluster
        self._random = Random(f"{seed}/volumes")
        self._servers = servers
        self._volumes: list[str] = []
        self._snapshots: list[tuple[str, str]] = []
        """(its id, its volume's)"""
        self._does = {
            "volume": self._create,
            "volume of an image": self._create_of_image,
            "volume of a snapshot": self._create_of_snapshot,
            "snapshot": self._snapshot,
            "delete snapshot": self._delete_snapshot,
            "revert": self._revert,
            "reimage": self._reimage,
            "move": self._move,
            "copy": self._copy,
            "extend": self._extend,
            "attach": self._attach,
            "detach": self._detach,
            "swap": self._swap,
            "boot": self._boot,
            "delete volume": self._delete,
        }

    def do(self) -> str:
        """One thing: what was asked for and accepted, or nothing."""
        what = self._random.choice(list(self._does))
        return what if self._does[what]() else ""

    def _create(self, **more: Any) -> bool:
        status, answer = self._ask("POST", "/volumes", {"volume": {"size": 1, **more}})
        if status == 202:
            self._volumes.append(answer["volume"]["id"])
        return bool(status == 202)

    def _create_of_image(self) -> bool:
        return self._create(imageRef=self._cluster.image_id)

    def _copy(self) -> bool:
        return bool(self._volumes) and self._create(source_volid=self._one(), size=2)

    def _snapshot(self) -> bool:
        if not self._volumes:
            return False
        volume = self._one()
        status, answer = self._ask("POST", "/snapshots", {"snapshot": {"volume_id": volume}})
        if status == 202:
            self._snapshots.append((answer["snapshot"]["id"], volume))
        return bool(status == 202)

    def _create_of_snapshot(self) -> bool:
        return bool(self._snapshots) and self._create(snapshot_id=self._random.choice(self._snapshots)[0])

    def _delete_snapshot(self) -> bool:
        return bool(self._snapshots) and self._accepted(
            *self._ask("DELETE", f"/snapshots/{self._random.choice(self._snapshots)[0]}")
        )

    def _revert(self) -> bool:
        """To its last snapshot, if it is that: else it is refused."""
        if not self._snapshots:
            return False
        snapshot, volume = self._snapshots[-1]
        return self._act(volume, "revert", snapshot_id=snapshot)

    def _reimage(self) -> bool:
        return bool(self._volumes) and self._act(self._one(), "os-reimage", image_id=self._cluster.image_id)

    def _move(self) -> bool:
        """To either backend: refused if it is there, if it is in use or has snapshots."""
        there = self._random.choice(["box@file", "box@other"])
        return bool(self._volumes) and self._act(self._one(), "os-migrate_volume", host=there)

    def _act(self, volume: str, action: str, **said: str) -> bool:
        return self._accepted(*self._ask("POST", f"/volumes/{volume}/action", {action: said}))

    def _extend(self) -> bool:
        return bool(self._volumes) and self._accepted(
            *self._ask("POST", f"/volumes/{self._one()}/action", {"os-extend": {"new_size": 2}})
        )

    def _delete(self) -> bool:
        return bool(self._volumes) and self._accepted(
            *self._ask("DELETE", f"/volumes/{self._one()}?cascade=true")
        )

    def _attach(self) -> bool:
        if not self._volumes or not self._servers:
            return False
        body = {"volumeAttachment": {"volumeId": self._one()}}
        return self._accepted(*self._of_server("POST", self._server(), "", body))

    def _detach(self) -> bool:
        """One that some server has."""
        if (found := self._one_in_use()) is None:
            return False
        volume, server = found
        return self._accepted(*self._of_server("DELETE", server, f"/{volume}"))

    def _swap(self) -> bool:
        """One that some server has, for any other."""
        if not self._volumes or (found := self._one_in_use()) is None:
            return False
        volume, server = found
        body = {"volumeAttachment": {"volumeId": self._one()}}
        return self._accepted(*self._of_server("PUT", server, f"/{volume}", body))

    def _one_in_use(self) -> tuple[str, str] | None:
        """(the volume, the server that has it)"""
        try:
            used = [(one["id"], one["attachments"]) for one in self._cluster.volumes() if one["attachments"]]
        except (*NOT_NOW, KeyError, TypeError):
            return None
        if not used:
            return None
        volume, attachments = self._random.choice(used)
        return volume, attachments[0]["server_id"]

    def _boot(self) -> bool:
        """A server whose root is a volume that its build makes."""
        root: dict[str, Any] = {"uuid": self._cluster.image_id, "source_type": "image"}
        root |= {"destination_type": "volume"}
        root |= {"volume_size": 1, "boot_index": 0, "delete_on_termination": self._random.random() < 0.5}
        server = {"name": "vm", "flavorRef": "42", "networks": "none", "block_device_mapping_v2": [root]}
        try:
            status, answer = self._cluster.ask_any("POST", "/compute/v2.1/servers", {"server": server})
        except NOT_NOW:
            return False
        if status == 202:
            self._servers.append(answer["server"]["id"])
        return bool(status == 202)

    def _one(self) -> str:
        return self._random.choice(self._volumes)

    def _server(self) -> str:
        return self._random.choice(self._servers)

    @staticmethod
    def _accepted(status: int, _answer: Any) -> bool:
        return status in {200, 202}

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        """(status, JSON); status 0: no API answered."""
        try:
            return self._cluster.ask_volume(method, path, body)
        except NOT_NOW:
            return 0, None

    def _of_server(self, method: str, server: str, path: str, body: Any = None) -> Any:
        whole = f"/compute/v2.1/servers/{server}/os-volume_attachments{path}"
        try:
            return self._cluster.ask_any(method, whole, body)
        except NOT_NOW:
            return 0, None
