"""kill -9 of a Kilonova in the midst of what it does to the volumes of a guest that runs, on every backend.

The guest goes on through all of it; what was begun is done by the next Kilonova. Each kind of work is cut off
at another of its steps on each backend; at all of them by `crash/`, with guests that are no more than a file.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.ceph import installed as ceph_installed
from tests.host_oracle import real_machine
from tests.orphans import orphans
from tests.running import CUT_OFF, until
from tests.system.cloud import SERVERS, Cloud, Guest
from tests.system.shell import Shell
from tests.system.test_guest_volumes import GIB, KINDS, SNAPSHOTS, VOLUMES, Disks, Stores, stores_in
from tests.tgt import installed as tgt_installed

pytestmark = [pytest.mark.system, pytest.mark.crash]
DONE = 180.0
"""Seconds; Ceph takes a client that was killed for alive for some ten of them."""
POINTS = {
    "attach": {
        "file": "attach_volume.attach_volume.before",
        "iscsi": "attach_volume.connect_volume.after",
        "rbd": "attach_volume.attach_volume.after",
    },
    "extend": {
        "file": "volume_extend.end.after",
        "iscsi": "volume_extend.extend.after",
        "rbd": "volume_extend.extend.before",
    },
    "snapshot": {
        "file": "snapshot_create.copy_by_guest.before",
        "iscsi": "copy_volume.answer.before",
        "rbd": "snapshot_create.make.after",
    },
    "swap": {
        "file": "swap_volume.mirror_volume.after",
        "iscsi": "swap_volume.swap_volume.after",
    },
    "detach": {
        "file": "detach_volume.accept.after",
        "iscsi": "detach_volume.detach_volume.after",
        "rbd": "detach_volume.finished.after",
    },
}


class Step(NamedTuple):
    """``ask`` for something: Kilonova dies at ``point``. Then ``look``, when the next one has done it."""

    point: str
    ask: Callable[[], object]
    look: Callable[[], object]


class World:
    """A guest, and the stores of its volumes."""

    def __init__(self, cloud: Cloud, stores: Stores, guest: Guest, disks: Disks) -> None:
        self.cloud, self.stores, self.guest, self.disks = cloud, stores, guest, disks

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Accepted, or cut off: then None."""
        newest = {"OpenStack-API-Version": "volume 3.70"} if "/volume/" in path else {}
        with suppress(*CUT_OFF):
            status, answer = self.cloud.up.ask(method, path, body, newest)
            assert status < 300, (method, path, answer)
            return answer
        return None

    def volume(self, kind: str, **more: Any) -> str:
        body = {"volume": {"size": 1, "volume_type": kind, **more}}
        volume_id = str(self.ask("POST", VOLUMES, body)["volume"]["id"])
        until(lambda: self.status(volume_id) == "available", DONE, f"{volume_id} to be available")
        return volume_id

    def status(self, volume_id: str) -> str:
        return str(self.ask("GET", f"{VOLUMES}/{volume_id}")["volume"]["status"])

    def attached(self) -> set[str]:
        found = self.ask("GET", f"{SERVERS}/{self.guest.id}/os-volume_attachments")["volumeAttachments"]
        return {one["volumeId"] for one in found}

    def goes_through(self, steps: list[Step]) -> None:
        """Each restart arms the next step's point: work that is taken up again does not come there."""
        up, config = self.cloud.up, self.stores.config()
        points = [step.point for step in steps]
        assert up.stop() == 0
        up.start(f'{config}[faults]\nkill_at = "{points[0]}"\n')
        for step, following in zip(steps, [*points[1:], "nowhere"], strict=True):
            step.ask()
            assert up.wait(DONE) == -9, f"nothing reached {step.point}"
            up.start(f'{config}[faults]\nkill_at = "{following}"\n')
            until(lambda: up.unexplained() == [], DONE, f"all to be explained after {step.point}")
            step.look()
            assert self.cloud.oracle.unexplained() == []
            assert orphans(up) == "0 found\n", step.point


def test_a_guest_keeps_its_volumes_whatever_is_killed(guest_image: Path) -> None:
    if not (ceph_installed() and tgt_installed()):
        pytest.skip("needs Ceph and tgt: tools/install-packages test")
    with real_machine() as (up, oracle), stores_in(up.state.parent / "stores") as stores:
        up.begin(stores.config())
        stores.ceph.start()
        up.wait_ready()
        cloud = Cloud(up, oracle, guest_image)
        cloud.key("k")
        guest = cloud.boot("vm", [up.network("10.91.8.0/24")], "k")
        guest.awaits_boot()
        with Shell(guest) as shell:
            world = World(cloud, stores, guest, Disks(shell))
            for kind in KINDS:
                specs = {"name": kind, "extra_specs": {"volume_backend_name": kind}}
                world.ask("POST", "/volume/v3/types", {"volume_type": specs})
            for kind in KINDS:
                world.goes_through(life(world, kind))
        leaves_nothing(world)


def life(world: World, kind: str) -> list[Step]:
    """Of a volume in one guest; where its backend lets the guest be mirrored, of another one that follows."""
    disks, server, points = world.disks, world.guest.id, {one: of.get(kind) for one, of in POINTS.items()}
    volume, every = world.volume(kind), f"{SERVERS}/{server}/os-volume_attachments"
    follows = world.volume(kind, size=2) if points["swap"] else volume
    disk = ""

    def came() -> None:
        nonlocal disk
        assert world.attached() == {volume}
        disk = disks.appears(volume)
        disks.write(disk, "kept")

    def grew() -> None:
        until(lambda: disks.size(disk) == 2 * GIB, DONE, "the guest to see that it has grown")
        disks.write(disk, "at the end", at=2047)

    def copied() -> None:
        (snapshot,) = world.ask("GET", f"{SNAPSHOTS}?volume_id={volume}")["snapshots"]
        assert snapshot["status"] == "available"
        copy = world.volume(kind, size=2, snapshot_id=snapshot["id"])
        assert world.stores.read(kind, copy, 1).startswith(b"kept")
        disks.write(disk, "written on", at=1)

    def swapped() -> None:
        assert world.attached() == {follows}
        assert (world.status(volume), world.status(follows)) == ("available", "in-use")
        disks.write(disk, "of the second", at=2)
        found = [disks.read(disk, at).strip() for at in (0, 1, 2, 2047)]
        assert found == ["kept", "written on", "of the second", "at the end"]

    def left() -> None:
        assert world.attached() == set()
        disks.goes(volume)  # a disk that was swapped has the serial number it had
        assert (world.status(volume), world.status(follows)) == ("available", "available")
        in_store = world.stores.read(kind, follows, 3)
        assert [in_store[at << 20 :][:4] for at in (0, 1)] == [b"kept", b"writ"]

    attach, swap = ({"volumeAttachment": {"volumeId": one}} for one in (volume, follows))
    extend = {"os-extend": {"new_size": 2}}
    snapshot = {"snapshot": {"volume_id": volume, "force": True}}
    steps = {
        "attach": (lambda: world.ask("POST", every, attach), came),
        "extend": (lambda: world.ask("POST", f"{VOLUMES}/{volume}/action", extend), grew),
        "snapshot": (lambda: world.ask("POST", SNAPSHOTS, snapshot), copied),
        "swap": (lambda: world.ask("PUT", f"{every}/{volume}", swap), swapped),
        "detach": (lambda: world.ask("DELETE", f"{every}/{follows}"), left),
    }
    return [Step(point, *steps[name]) for name, point in points.items() if point]


def leaves_nothing(world: World) -> None:
    cloud = world.cloud
    cloud.delete(world.guest)
    for snapshot in world.ask("GET", SNAPSHOTS)["snapshots"]:
        world.ask("DELETE", f"{SNAPSHOTS}/{snapshot['id']}")
    until(lambda: not world.ask("GET", SNAPSHOTS)["snapshots"], DONE, "the snapshots to go")
    for volume in world.ask("GET", VOLUMES)["volumes"]:
        world.ask("DELETE", f"{VOLUMES}/{volume['id']}")
    until(lambda: not world.ask("GET", VOLUMES)["volumes"], DONE, "the volumes to go")
    assert world.stores.left() == []
    assert cloud.oracle.left() == []
    assert orphans(cloud.up) == "0 found\n"
