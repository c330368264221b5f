"""kill -9 between any two steps of a volume's way to another backend: it is there once, whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import pytest
from tests.ceph import USER
from tests.orphans import orphans
from tests.running import CUT_OFF, Up, until

from kilonova.rbd import Cluster

POINTS = (
    "volume_move.accept.after",
    "volume_move.empty.after",
    "volume_move.copy.after",
    "volume_move.end.after",
    "volume_clear.take.after",
    "volume_clear.clear.after",
)
VOLUMES, TYPES = "/volume/v3/volumes", "/volume/v3/types"


class Store(Protocol):
    """Where a backend keeps volumes, past Kilonova."""

    options: str
    """Of the backend, as TOML."""

    def names(self) -> set[str]: ...

    def open(self, name: str) -> BinaryIO: ...


class Folder:
    def __init__(self, path: Path) -> None:
        self.options = f'driver = "file"\npath = "{path}"\n'
        self._path = path

    def names(self) -> set[str]:
        return {one.name for one in self._path.iterdir()}

    def open(self, name: str) -> BinaryIO:
        return (self._path / name).open("rb")


class InCeph:
    def __init__(self, cluster: Cluster) -> None:
        self.options = f'driver = "rbd"\nrbd_user = "{USER}"\nrbd_ceph_conf = "{cluster.conf}"\n'
        self._pool = cluster.pool("volumes")

    def names(self) -> set[str]:
        return self._pool.names() | self._pool.trashed()

    def open(self, name: str) -> BinaryIO:
        return self._pool.open(name)


@pytest.fixture(params=["file", "rbd"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Store]]:
    """Two backends by name: a folder, and another one or a pool of Ceph."""
    one = Folder(tmp_path / "one")
    if request.param == "file":
        yield {"one": one, "two": Folder(tmp_path / "two")}
        return
    cluster = Cluster(request.getfixturevalue("ceph").conf, USER)
    try:
        yield {"one": one, "two": InCeph(cluster)}
    finally:
        cluster.close()


def test_a_volume_that_moves_is_always_there_once(tmp_path: Path, stores: dict[str, Store]) -> None:
    """One volume, from one backend to the other and back, each time cut off a step later."""
    up = Up(tmp_path / "state")
    backends = "".join(f"[volume.backends.{name}]\n{store.options}" for name, store in stores.items())
    up.start(backends)
    try:
        for name in stores:
            asked = {"name": name, "extra_specs": {"volume_backend_name": name}}
            assert up.ask("POST", TYPES, {"volume_type": asked})[0] == 200
        made = up.ask("POST", VOLUMES, {"volume": {"size": 1, "volume_type": "one"}})[1]["volume"]["id"]
        path = f"{VOLUMES}/{made}"
        until(lambda: up.ask("GET", path)[1]["volume"]["status"] == "available", 60, "a volume")
        file = f"volume-{made}"
        with (tmp_path / "one" / file).open("r+b") as disk:
            disk.write(b"data")
        here = "one"
        for point in POINTS:
            there = "two" if here == "one" else "one"
            assert up.stop() == 0
            up.start(f'{backends}[faults]\nkill_at = "{point}"\n')
            retype = {"os-retype": {"new_type": there, "migration_policy": "on-demand"}}
            with contextlib.suppress(*CUT_OFF):
                status, answer = up.ask("POST", f"{path}/action", retype)
                assert status == 202, answer
            assert up.wait() == -9, f"nothing reached {point}"
            up.start(backends)
            until(lambda: not stores[here].names(), 90, f"nothing left after {point}")  # noqa: B023
            assert stores[there].names() == {file}
            with stores[there].open(file) as disk:
                assert disk.read(8) == b"data" + bytes(4)
            shown = up.ask("GET", path)[1]["volume"]
            assert (shown["status"], shown["volume_type"]) == ("available", there)
            assert shown["migration_status"] == "success"
            until(lambda: up.unexplained() == [], 60, "all to be explained")
            assert orphans(up) == "0 found\n"
            here = there
        assert up.ask("DELETE", path)[0] == 202
        until(lambda: not any(store.names() for store in stores.values()), 60, "the volume to go")
    finally:
        up.kill()
