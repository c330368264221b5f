"""The users' volumes while everything dies: made, copied, attached, detached, grown and deleted."""

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
        self._does = {
            "volume": self._create,
            "volume of an image": self._create_of_image,
            "snapshot": self._snapshot,
            "copy": self._copy,
            "extend": self._extend,
            "attach": self._attach,
            "detach": self._detach,
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
        return bool(self._volumes) and self._accepted(
            *self._ask("POST", "/snapshots", {"snapshot": {"volume_id": self._one()}})
        )

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
        try:
            used = [(one["id"], one["attachments"]) for one in self._cluster.volumes() if one["attachments"]]
        except (*NOT_NOW, KeyError, TypeError):
            return False
        if not used:
            return False
        volume, attachments = self._random.choice(used)
        return self._accepted(*self._of_server("DELETE", attachments[0]["server_id"], f"/{volume}"))

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
