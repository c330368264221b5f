"""The users of a cluster while everything dies: fifty builds at once, then deletes, actions and more builds;
images of servers, and servers that are shelved; and volumes (crash/volume_users.py).

They do as clients do: a request that was not answered, or not now, is made again.
"""

from __future__ import annotations

import threading
from collections import Counter
from random import Random
from typing import Any

from crash.cluster import NOT_NOW, Cluster
from crash.volume_users import VolumeUsers

_DONE = (
    *("delete", "build", "os-stop", "os-start", "reboot", "pause", "unpause", "suspend", "resume"),
    *("createImage", "createBackup", "rebuild", "rescue", "unrescue", "shelve", "unshelve"),
)
_AT_ONCE, _LIVING = 10, 3
_PAUSE = 0.3
_PATIENCE = 120.0


class Users:
    """begin(), stop(); ``counts`` by what was asked, of answers that were yes."""

    def __init__(self, cluster: Cluster, seed: int, builds: int) -> None:
        self.counts: Counter[str] = Counter()
        self._cluster = cluster
        self._random = Random(f"{seed}/users")
        self._builds = builds
        self._left = threading.Semaphore(builds)
        self._made: list[str] = []
        self._volumes = VolumeUsers(cluster, seed, self._made)
        self._stopping = threading.Event()
        self._values: dict[str, Any] = {
            "reboot": {"type": "HARD"},
            "createImage": {"name": "s"},
            "createBackup": {"name": "b", "backup_type": "daily", "rotation": 1},
            "rebuild": {"imageRef": cluster.image_id},
        }
        self._threads = [threading.Thread(target=self._build, daemon=True) for _ in range(_AT_ONCE)]
        self._threads += [threading.Thread(target=self._live, daemon=True) for _ in range(_LIVING)]
        self._threads.append(threading.Thread(target=self._live_with_volumes, daemon=True))

    def begin(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """All that were to be built are accepted. AssertionError: they could not be."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(_PATIENCE)
        assert not any(thread.is_alive() for thread in self._threads), "the API did not come back"
        assert self.counts["build"] >= self._builds, self.counts

    def _build(self) -> None:
        while self._left.acquire(blocking=False):
            while not self._post():
                self._stopping.wait(_PAUSE)

    def _post(self) -> bool:
        cluster = self._cluster
        networks = [{"uuid": cluster.network_id}]
        server = {"name": "vm", "imageRef": cluster.image_id, "flavorRef": "42", "networks": networks}
        status, answer = self._ask("POST", "/servers", {"server": server})
        if status == 202:
            self._made.append(answer["server"]["id"])
            self.counts["build"] += 1
        return bool(status == 202)

    def _live(self) -> None:
        while not self._stopping.wait(_PAUSE):
            what = self._random.choice(_DONE)
            if what == "build":
                self._post()
            elif self._made:
                self._change(what, self._random.choice(self._made))

    def _change(self, what: str, server_id: str) -> None:
        if what == "delete":
            status, _ = self._ask("DELETE", f"/servers/{server_id}")
        else:
            value = self._values.get(what)
            status, _ = self._ask("POST", f"/servers/{server_id}/action", {what: value})
        if status in {200, 202, 204}:
            self.counts[what.removeprefix("os-")] += 1

    def _live_with_volumes(self) -> None:
        while not self._stopping.wait(_PAUSE):
            if done := self._volumes.do():
                self.counts[done] += 1

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        """(status, JSON); status 0: no API answered."""
        try:
            return self._cluster.ask_any(method, f"/compute/v2.1{path}", body)
        except NOT_NOW:
            return 0, None
