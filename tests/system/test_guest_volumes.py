"""Volumes of real guests, the same for every backend: files, Ceph, iSCSI.

Booting is what takes time: one guest, of a volume in Ceph, has volumes of all of them one after another. The
tests run in this order.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.ceph import USER, Ceph
from tests.ceph import installed as ceph_installed
from tests.host_oracle import real_machine
from tests.orphans import orphans
from tests.running import Up, until
from tests.system.cloud import SERVERS, Cloud, Guest
from tests.system.secrets_told import places_of
from tests.system.shell import Shell
from tests.tgt import Tgtd
from tests.tgt import installed as tgt_installed

from kilonova.rbd import Cluster
from kilonova.volume.backends.tgt import Tgt

pytestmark = pytest.mark.system
GIB = 1 << 30
KINDS = ("file", "iscsi", "rbd")
VOLUMES = "/volume/v3/volumes"
SNAPSHOTS = "/volume/v3/snapshots"
NEWEST = {"OpenStack-API-Version": "volume 3.70"}
METADATA = "http://169.254.169.254/openstack/latest/meta_data.json"
SOON = 120.0
LATER = 1022
"""MiB: near the end of the smallest volume."""
COUNT = "; ".join(
    ["n=$((n + 1))"]
    + [f"printf %08d $n | dd of=/dev/{{}} bs=512 seek={at * 2048} conv=notrunc,fsync" for at in (8, LATER)]
)
"""Always first at one place, then at the other."""
WRITE = "dd if=/dev/zero of=/dev/{} bs=4096 seek=4096 count=64 conv=notrunc,fsync"


class Stores:
    """The three, on the host that the tests are on."""

    def __init__(self, folder: Path) -> None:
        self.ceph = Ceph()
        self.tgt = Tgtd(folder).start()
        self.folder = folder

    def config(self) -> str:
        address, _, port = self.tgt.portal.partition(":")
        return f"""
[compute]
report_interval = 1.0
[libvirt]
virt_type = "qemu"
images_rbd_ceph_conf = "{self.ceph.conf}"
[volume]
quota_volumes = 50
quota_snapshots = 50
[volume.backends.file]
driver = "file"
path = "{self.folder}/files"
[volume.backends.iscsi]
driver = "iscsi"
path = "{self.folder}/disks"
target_ip_address = "{address}"
target_port = {port}
tgt_socket = "{self.tgt.address}"
[volume.backends.rbd]
driver = "rbd"
rbd_user = "{USER}"
rbd_ceph_conf = "{self.ceph.conf}"
"""

    def secrets(self) -> dict[str, str]:
        """What nobody may read: Ceph's key, and the passwords of what iSCSI serves now."""
        served = (self.folder / "disks").glob("*.exports")
        return {"Ceph's key": self.ceph.key} | {
            path.name: json.loads(path.read_text())["password"] for path in served
        }

    def read(self, kind: str, volume_id: str, mib: int) -> bytes:
        """The beginning of what the volume holds, not by way of a guest."""
        if kind != "rbd":
            folder = self.folder / ("files" if kind == "file" else "disks")
            with (folder / f"volume-{volume_id}").open("rb") as file:
                return file.read(mib << 20)
        cluster = Cluster(self.ceph.conf, USER)
        try:
            with cluster.pool("volumes").open(f"volume-{volume_id}") as image:
                return image.read(mib << 20)
        finally:
            cluster.close()

    def left(self) -> list[str]:
        """Files, targets, images of Ceph."""
        cluster = Cluster(self.ceph.conf, USER)
        pool = cluster.pool("volumes")
        images = {*pool.names(), *pool.trashed()}
        cluster.close()
        files = [path.name for name in ("files", "disks") for path in (self.folder / name).iterdir()]
        return [*files, *Tgt(self.tgt.address).targets(), *images]

    def close(self) -> None:
        self.ceph.remove()
        self.tgt.kill()


class World:
    def __init__(self, cloud: Cloud, stores: Stores) -> None:
        self.cloud = cloud
        self.stores = stores
        self.told: list[str] = []
        """All that the API ever answered."""
        until(self._has_backends, SOON, "all backends")
        for kind in KINDS:
            self._type(kind, kind, {})
            self._type(f"{kind}-shared", kind, {"multiattach": "<is> True"})
        self.network = cloud.up.network("10.91.7.0/24")
        cloud.key("k")
        root = {
            "source_type": "image",
            "uuid": cloud.image,
            "destination_type": "volume",
            "volume_type": "rbd",
            "volume_size": 1,
            "boot_index": 0,
            "tag": "root",
            "delete_on_termination": True,
        }
        with ThreadPoolExecutor(1) as pool:
            booting = pool.submit(
                cloud.boot, "vm", [self.network], "k", imageRef="", block_device_mapping_v2=[root]
            )
            volumes = {kind: self._volumes_of(kind) for kind in KINDS}
            self.guest: Guest = booting.result()
        self.volumes: dict[str, dict[str, str]] = volumes
        (self.root,) = self.attached(self.guest.id)

    # --- by the API
    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        status, answer = self.cloud.up.ask(method, path, body, (NEWEST if "/volume/" in path else headers))
        self.told.append(json.dumps(answer))
        assert status < 300, (method, path, answer)
        return answer

    def volume(self, kind: str, size: int = 1, **more: Any) -> str:
        """It will be there soon."""
        body = {"volume": {"size": size, "volume_type": kind, **more}}
        return str(self.ask("POST", VOLUMES, body)["volume"]["id"])

    def becomes(self, volume_id: str, status: str, path: str = VOLUMES, *, patience: float = SOON) -> Any:
        def found() -> Any:
            shown = self.ask("GET", f"{path}/{volume_id}")[path.rpartition("/")[2][:-1]]
            assert not shown["status"].startswith("error"), (shown, self.cloud.up.log()[-3000:])
            return shown if shown["status"] == status else None

        return until(found, patience, f"{volume_id} to be {status}")

    def attached(self, server_id: str) -> set[str]:
        found = self.ask("GET", f"{SERVERS}/{server_id}/os-volume_attachments")["volumeAttachments"]
        return {one["volumeId"] for one in found}

    def attach(self, server_id: str, volume_id: str, **more: Any) -> None:
        body = {"volumeAttachment": {"volumeId": volume_id, **more}}
        self.ask("POST", f"{SERVERS}/{server_id}/os-volume_attachments", body)
        self.becomes(volume_id, "in-use")

    def detach(self, server_id: str, volume_id: str) -> None:
        self.ask("DELETE", f"{SERVERS}/{server_id}/os-volume_attachments/{volume_id}")
        self.becomes(volume_id, "available")

    def extend(self, volume_id: str, size: int) -> None:
        self.ask("POST", f"{VOLUMES}/{volume_id}/action", {"os-extend": {"new_size": size}})

    def snapshot(self, volume_id: str) -> str:
        """Whole."""
        made = self.ask("POST", SNAPSHOTS, {"snapshot": {"volume_id": volume_id}})["snapshot"]["id"]
        self.becomes(made, "available", SNAPSHOTS)
        return str(made)

    def _has_backends(self) -> bool:
        pools = self.ask("GET", "/volume/v3/scheduler-stats/get_pools?detail=true")["pools"]
        has = [pool["capabilities"] for pool in pools]
        return [one["backend_state"] == "up" and one["free_capacity_gb"] > 1 for one in has] == [True] * 3

    def _type(self, name: str, kind: str, specs: dict[str, str]) -> None:
        specs = {"volume_backend_name": kind, **specs}
        self.ask("POST", "/volume/v3/types", {"volume_type": {"name": name, "extra_specs": specs}})

    def _volumes_of(self, kind: str) -> dict[str, str]:
        """Available while the guest boots."""
        made = {
            "first": self.volume(kind),
            "second": self.volume(kind, 2),
            "shared": self.volume(f"{kind}-shared"),
        }
        for volume_id in made.values():
            self.becomes(volume_id, "available")
        return made


@pytest.fixture(scope="module")
def world(guest_image: Path) -> Iterator[World]:
    if not (ceph_installed() and tgt_installed()):
        pytest.skip("needs Ceph and tgt: tools/install-packages test")
    with real_machine() as (up, oracle), stores_in(up.state.parent / "stores") as stores:
        up.begin(stores.config())
        stores.ceph.start()
        up.wait_ready()
        yield World(Cloud(up, oracle, guest_image), stores)


@contextmanager
def stores_in(folder: Path) -> Iterator[Stores]:
    folder.mkdir(mode=0o711)
    stores = Stores(folder)
    try:
        yield stores
    finally:
        stores.close()


@pytest.fixture(scope="module")
def inside(world: World) -> Iterator[Disks]:
    world.guest.awaits_boot()
    with Shell(world.guest) as shell:
        yield Disks(shell)


class Disks:
    """Those of the guest, as it sees them itself."""

    def __init__(self, shell: Shell) -> None:
        self.run = shell.run

    def of(self, volume_id: str) -> str:
        """Its name there; empty if the guest has no such disk."""
        look = f"cd /sys/block; for d in vd*; do [ x$(cat $d/serial) != x{volume_id[:20]} ] || echo $d; done"
        return self.run(look)

    def appears(self, volume_id: str) -> str:
        return str(until(lambda: self.of(volume_id), SOON, f"the guest to see {volume_id}"))

    def goes(self, volume_id: str) -> None:
        until(lambda: not self.of(volume_id), SOON, f"the guest to see {volume_id} no more")

    def size(self, disk: str) -> int:
        return int(self.run(f"cat /sys/block/{disk}/size")) * 512

    def write(self, disk: str, text: str, at: int = 0, conv: str = "notrunc,fsync") -> None:
        """``at``: MiB. With ``fsync`` it is in the volume when this returns."""
        self.run(
            f"test -b /dev/{disk} && printf %-512s '{text}' > /run/text"
            f" && dd if=/run/text of=/dev/{disk} bs=512 seek={at * 2048} conv={conv} 2>/dev/null"
        )

    def read(self, disk: str, at: int = 0) -> str:
        """Of the volume, and not what was remembered."""
        return self.run(
            f"sync; echo 3 > /proc/sys/vm/drop_caches; test -b /dev/{disk}"
            f" && dd if=/dev/{disk} of=/run/read bs=512 skip={at * 2048} count=1 2>/dev/null"
            " && tr -d '\\0' < /run/read"
        )

    @contextmanager
    def doing(self, commands: str) -> Iterator[None]:
        """Again and again while the block runs, and never after it: what writes to a disk that went away
        makes a file of its name, and the next disk of that name cannot be reached."""
        name = f"/run/doing-{uuid4().hex}"
        self.run(f"(while [ ! -e {name} ]; do {commands}; done; touch {name}.done) >/dev/null 2>&1 &")
        try:
            yield
        finally:
            self.run(f"touch {name}; while [ ! -e {name}.done ]; do sleep 0.1; done")


def test_it_boots_from_a_volume_of_its_image(world: World, inside: Disks) -> None:
    assert inside.of(world.root) == "vda"
    assert inside.size("vda") == GIB
    assert "/dev/vda" in inside.run("cat /proc/mounts") or "vda" in inside.run("cat /proc/cmdline")
    shown = world.becomes(world.root, "in-use")
    assert (shown["bootable"], shown["volume_type"]) == ("true", "rbd")
    assert told_of(inside, "root") == world.root


def told_of(inside: Disks, tag: str) -> str:
    """The disk with that tag, as the metadata has it, and where the guest has it."""
    devices = json.loads(inside.run(f"wget -q -O - {METADATA}"))["devices"]
    (one,) = [device for device in devices if tag in device["tags"]]
    where = inside.run(f"readlink -f /sys/block/{inside.of(one['serial'])}/device").split("/")
    assert (one["bus"], one["address"]) == ("pci", where[-2])
    return str(one["serial"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_guest_lives_with_volumes(world: World, inside: Disks, kind: str) -> None:
    server, (first, second, shared) = world.guest.id, world.volumes[kind].values()

    world.attach(server, first, tag=kind)
    disk = inside.appears(first)
    assert inside.size(disk) == GIB
    assert told_of(inside, kind) == first
    inside.write(disk, "kept")

    world.extend(first, 2)
    until(lambda: inside.size(disk) == 2 * GIB, SOON, "the guest to see that it has grown")
    inside.write(disk, "at the end", at=2047)
    world.becomes(first, "in-use")

    with inside.doing(WRITE.format(disk)):
        world.ask(
            "PUT",
            f"{SERVERS}/{server}/os-volume_attachments/{first}",
            {"volumeAttachment": {"volumeId": second}},
        )
        world.becomes(first, "available")
        world.becomes(second, "in-use")
    inside.write(disk, "of the second", at=1)
    found = [inside.read(disk, at).strip() for at in (0, 1, 2047)]
    assert found == ["kept", "of the second", "at the end"]

    with inside.doing(COUNT.format(disk, disk)):
        until(lambda: inside.read(disk, LATER).strip(), SOON, "the guest to count")
        snapshot = world.snapshot(second)

    world.detach(server, second)
    inside.goes(first)  # a disk that was swapped has the serial number it had
    copy = world.volume(kind, 2, snapshot_id=snapshot)
    world.attach(server, first)
    disk = inside.appears(first)
    assert [inside.read(disk, at).strip() for at in (0, 1)] == ["kept", ""]
    world.becomes(copy, "available")
    world.attach(server, copy, delete_on_termination=True)
    disk = inside.appears(copy)
    assert [inside.read(disk, at).strip() for at in (0, 1, 2047)] == found
    before, after = (int(inside.read(disk, at), 10) for at in (8, LATER))
    assert before > 0, "it was taken while the guest wrote"
    assert before - 1 <= after <= before, "of one moment"

    disk = inside.of(first)
    inside.write(disk, "flushed", at=3)
    inside.write(disk, "not flushed", at=4, conv="notrunc")
    world.detach(server, first)
    in_store = world.stores.read(kind, first, 5)
    assert [in_store[at << 20 :][:512].rstrip() for at in (0, 3, 4)] == [b"kept", b"flushed", b"not flushed"]
    inside.goes(first)

    world.attach(server, shared)
    disk = inside.appears(shared)
    inside.write(disk, "shared")
    if kind != "iscsi":  # whose bytes are files, too
        becomes_an_image_while_it_is_written(world, inside, shared, disk)


def becomes_an_image_while_it_is_written(world: World, inside: Disks, volume_id: str, disk: str) -> None:
    """Of one moment, and the guest goes on."""
    asked = {"image_name": "taken", "disk_format": "raw", "container_format": "bare", "force": True}
    with inside.doing(COUNT.format(disk, disk)):
        first = until(lambda: inside.read(disk, LATER).strip(), SOON, "the guest to count")
        answer = world.ask("POST", f"{VOLUMES}/{volume_id}/action", {"os-volume_upload_image": asked})
        image_id = answer["os-volume_upload_image"]["image_id"]
        world.becomes(volume_id, "in-use", patience=3 * SOON)  # it is copied, and hashed twice
        last = inside.read(disk, LATER).strip()
    image = world.ask("GET", f"/image/v2/images/{image_id}")
    assert (image["status"], image["size"]) == ("active", GIB), world.cloud.up.log()[-3000:]
    with (world.cloud.up.state / "images" / image_id).open("rb") as file:
        found = []
        for at in (0, 8, LATER):
            file.seek(at << 20)
            found.append(file.read(512).rstrip(b"\0").strip().decode())
    kept, before, after = found
    assert kept == "shared"
    assert int(first) <= int(after) <= int(before) <= int(after) + 1 <= int(last) + 1
    world.ask("DELETE", f"/image/v2/images/{image_id}")


def test_another_has_them_too_and_starts_with_more(world: World, inside: Disks) -> None:
    """What several may have, while the guest has it; and what comes to a server that is off."""
    up, image = world.cloud.up, world.cloud.up.image(b"\0" * 512)
    shared = [world.volumes[kind]["shared"] for kind in KINDS]
    disks = [{"source_type": "image", "uuid": image, "destination_type": "local", "boot_index": 0}]
    disks += [{"source_type": "volume", "uuid": one, "destination_type": "volume"} for one in shared]
    status, made = up.post_server(image, block_device_mapping_v2=disks)
    assert status == 202, made
    other = made["server"]["id"]
    assert up.settled(other)["status"] == "ACTIVE", up.server(other)
    assert [len(world.becomes(one, "in-use")["attachments"]) for one in shared] == [2, 2, 2]

    os.kill(world.cloud.oracle.guests()[other], signal.SIGKILL)
    until(lambda: up.server(other)["status"] == "SHUTOFF", SOON, "the other to be off")
    for kind in KINDS:
        world.attach(other, world.volumes[kind]["second"])
    world.ask("POST", f"{SERVERS}/{other}/action", {"os-start": None})
    assert up.settled(other)["status"] == "ACTIVE", up.server(other)
    assert len(world.attached(other)) == 6

    assert up.ask("DELETE", f"{SERVERS}/{other}")[0] == 204
    for kind in KINDS:
        world.becomes(world.volumes[kind]["second"], "available")
        assert inside.read(inside.of(world.volumes[kind]["shared"])).strip() == "shared"


def test_its_volume_is_taken_rebuilt_rescued_and_shelved(world: World, inside: Disks) -> None:
    """And others boot from what was taken of it, and from a volume that was there."""
    guest, up, path = world.guest, world.cloud.up, f"{SERVERS}/{world.guest.id}"
    older = {one["id"] for one in world.ask("GET", SNAPSHOTS)["snapshots"]}
    inside.run("echo kept > /root/kept; sync")
    status, taken = up.ask("POST", f"{path}/action", {"createImage": {"name": "taken"}})
    assert status == 202, taken
    guest.becomes("ACTIVE", SOON)
    found = world.ask("GET", SNAPSHOTS)["snapshots"]
    snapshots = {one["volume_id"]: one["id"] for one in found if one["id"] not in older}
    before = {one["id"] for one in world.ask("GET", VOLUMES)["volumes"]}
    existing = world.volume("iscsi", imageRef=world.cloud.image)
    world.becomes(existing, "available")
    sources = {
        "image": {"imageRef": taken["image_id"]},
        "snapshot": booting("snapshot", snapshots[world.root], volume_size=1, delete_on_termination=True),
        "volume": booting("volume", existing),
    }
    others = {source: booted(up, **more) for source, more in sources.items()}
    roots = {source: world.attached(other) for source, other in others.items()}
    assert roots["volume"] == {existing}
    for source in ("image", "snapshot"):
        (root,) = [one for one in roots[source] if world.becomes(one, "in-use")["bootable"] == "true"]
        assert same_system(world.stores, world.root, root), source
    for other in others.values():
        assert up.ask("DELETE", f"{SERVERS}/{other}")[0] == 204
    (one,) = roots["snapshot"]
    until(lambda: up.ask("GET", f"{VOLUMES}/{one}")[0] == 404, SOON, f"{one} to go")

    def cleared() -> bool:
        left = [one for one in world.ask("GET", f"{VOLUMES}/detail")["volumes"] if one["id"] not in before]
        for volume in left:
            if volume["status"] == "available":
                world.ask("DELETE", f"{VOLUMES}/{volume['id']}")
        return not left

    until(cleared, SOON, "the other volumes to go")
    world.ask("DELETE", f"/image/v2/images/{taken['image_id']}")
    for one in snapshots.values():
        world.ask("DELETE", f"{SNAPSHOTS}/{one}")
    until(lambda: len(world.ask("GET", SNAPSHOTS)["snapshots"]) == len(older), SOON, "the snapshots to go")

    newest = {"OpenStack-API-Version": "compute 2.93"}
    world.ask("POST", f"{path}/action", {"rebuild": {"imageRef": world.cloud.image}}, **newest)
    guest.becomes("ACTIVE", SOON)
    guest.awaits_boot()
    assert guest.run("ls /root/kept 2>&1 | grep -c 'No such'; echo new > /root/new; sync") == "1"
    mine = world.attached(guest.id)
    assert world.root in mine

    rescues = [{"op": "add", "path": "/hw_rescue_bus", "value": "virtio"}]
    rescues += [{"op": "add", "path": "/hw_rescue_device", "value": "disk"}]
    patch = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
    world.ask("PATCH", f"/image/v2/images/{world.cloud.image}", rescues, **patch)
    guest.act(rescue={"rescue_image_ref": world.cloud.image})
    guest.becomes("RESCUE", SOON)
    guest.awaits_boot()
    assert guest.run("cat /sys/block/vda/serial; echo; ls /sys/block | grep -c vd").split() == [
        world.root[:20],
        str(len(mine) + 1),
    ]
    guest.act(unrescue=None)
    guest.becomes("ACTIVE", SOON)

    guest.act(shelve=None)
    guest.becomes("SHELVED_OFFLOADED", SOON)
    came = world.volumes["iscsi"]["second"]
    body = {"volumeAttachment": {"volumeId": came}}
    world.ask("POST", f"{path}/os-volume_attachments", body, **newest)
    world.becomes(came, "in-use")
    guest.act(unshelve=None)
    guest.becomes("ACTIVE", SOON)
    guest.awaits_boot()
    assert guest.run("cat /root/new; ls /sys/block | grep -c vd") == f"new\n{len(mine) + 1}"
    assert world.attached(guest.id) == mine | {came}
    world.detach(guest.id, came)


def booting(source: str, of: str, **more: Any) -> dict[str, Any]:
    """A server whose disk to boot from is that."""
    disk = {"source_type": source, "uuid": of, "destination_type": "volume", "boot_index": 0, **more}
    return {"imageRef": "", "block_device_mapping_v2": [disk]}


def booted(up: Up, imageRef: str, **more: Any) -> str:
    status, made = up.post_server(imageRef, **more)
    assert status == 202, made
    server = str(made["server"]["id"])
    assert up.settled(server)["status"] == "ACTIVE", up.server(server)
    return server


def same_system(stores: Stores, one: str, other: str) -> bool:
    """What nobody wrote to: where the kernel is, and the beginning of the partitions."""
    first, second = (stores.read("rbd", volume, 16) for volume in (one, other))
    return any(first) and first == second


def test_no_secret_is_told_or_written(world: World, inside: Disks) -> None:
    up, server = world.cloud.up, world.guest.id
    for path in ("", "/os-volume_attachments", "/os-instance-actions"):
        world.ask("GET", f"{SERVERS}/{server}{path}")
    for one in world.ask("GET", "/volume/v3/attachments/detail")["attachments"]:
        world.ask("GET", f"/volume/v3/attachments/{one['id']}")
    world.ask("GET", f"{VOLUMES}/detail")
    secrets = world.stores.secrets()
    assert len(secrets) == 3, "a key, and the passwords of two volumes that the guest has"
    answered = "".join(world.told)
    for name, secret in secrets.items():
        told = places_of(secret, up, server, answered)
        assert not told, f"{name} is in {told}"


def test_what_goes_with_the_server_is_gone_and_the_rest_is_whole(world: World) -> None:
    cloud = world.cloud
    mine = world.attached(world.guest.id)
    ends = mine - {world.volumes[kind]["shared"] for kind in KINDS}
    assert len(ends) == 1 + len(KINDS)
    cloud.delete(world.guest)
    for one in ends:
        until(lambda one=one: cloud.up.ask("GET", f"{VOLUMES}/{one}")[0] == 404, SOON, f"{one} to go")
    for snapshot in world.ask("GET", SNAPSHOTS)["snapshots"]:
        world.ask("DELETE", f"{SNAPSHOTS}/{snapshot['id']}")
    until(lambda: not world.ask("GET", SNAPSHOTS)["snapshots"], SOON, "the snapshots to go")
    for volumes in world.volumes.values():
        for one in volumes.values():
            world.becomes(one, "available")
            world.ask("DELETE", f"{VOLUMES}/{one}")
    until(lambda: not world.ask("GET", VOLUMES)["volumes"], SOON, "the volumes to go")
    assert world.stores.left() == []
    assert cloud.oracle.left() == []
    assert orphans(cloud.up) == "0 found\n"
