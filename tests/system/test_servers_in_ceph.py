"""The life of a server whose disks are in Ceph, in one cloud with images in Ceph: each test goes on where the
one before it ended.

Its guest agent, Debian's, holds the file systems still where a snapshot is taken, as its hook notes.
"""

from __future__ import annotations

import base64
import json
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.ceph import USER, Ceph, installed
from tests.host_oracle import real_machine
from tests.orphans import orphans
from tests.running import until
from tests.system.cloud import SERVERS, Cloud, Guest
from tests.system.secrets_told import places_of

from kilonova.rbd import Cluster

pytestmark = pytest.mark.system

IMAGES = "/image/v2/images"
VOLUMES = "/volume/v3/volumes"
SNAPSHOTS = "/volume/v3/snapshots"
METADATA = "http://169.254.169.254/openstack/latest/meta_data.json"
SOON, LATER = 120.0, 240.0
AGENT = b"""#!/bin/sh
cat > /run/hook <<'HOOK'
#!/bin/sh
echo $1 >> /run/hooked
while [ $1 = freeze ] && [ -e /run/wait ]; do sleep 0.1; done
HOOK
chmod +x /run/hook
for port in /sys/class/virtio-ports/*; do
    if [ "$(cat $port/name)" = org.qemu.guest_agent.0 ]; then
        qemu-ga -d -m virtio-serial -p /dev/${port##*/} -t /run -f /run/agent.pid -F/run/hook
    fi
done
"""


class World:
    def __init__(self, cloud: Cloud, ceph: Ceph, cluster: Cluster, folder: Path, config: str) -> None:
        self.config = config
        self.cloud, self.ceph, self._folder = cloud, ceph, folder
        self.up = cloud.up
        self.disks, self.images = cluster.pool("vms"), cluster.pool("images")
        self.network = self.up.network("10.91.8.0/24")
        cloud.key("k")
        flavor = {"name": "f", "ram": 128, "vcpus": 1, "disk": 0, "swap": 64}
        flavor["OS-FLV-EXT-DATA:ephemeral"] = 1
        root = {
            "source_type": "image",
            "uuid": cloud.image,
            "destination_type": "local",
            "boot_index": 0,
            "tag": "root",
        }
        self.guest: Guest = cloud.boot(
            "vm",
            [self.network],
            "k",
            flavorRef=self.ask("POST", "/compute/v2.1/flavors", {"flavor": flavor})["flavor"]["id"],
            block_device_mapping_v2=[root],
            user_data=base64.b64encode(AGENT).decode(),
        )
        self.guest.awaits_boot()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = self.up.ask(method, path, body)
        assert status < 300, (method, path, answer)
        return answer

    def act(self, **action: Any) -> Any:
        return self.ask("POST", f"{SERVERS}/{self.guest.id}/action", action)

    def names(self) -> set[str]:
        """Of the guest's disks in the pool, without its id."""
        return {name.removeprefix(f"{self.guest.id}_") for name in self.disks.names()}

    def taken(self, **action: Any) -> str:
        """An image of the server, when it has its bytes."""
        image = str(self.act(**action)["image_id"])
        until(lambda: self.ask("GET", f"{IMAGES}/{image}")["status"] == "active", LATER, "the image")
        self.guest.becomes("ACTIVE", LATER)
        return image

    def root_of(self, image: str) -> Path:
        """The root file system that the image holds, as a file."""
        with self.images.open(image, "snap") as disk:
            table = disk.read(512)
            start, length = struct.unpack("<II", table[470:478])  # of the second partition, in sectors
            disk.seek(start * 512)
            root = self._folder / "root"
            root.write_bytes(disk.read(length * 512))
        return root

    def snapshot(self, volume: str) -> str:
        """Of a volume in use, begun."""
        body = {"snapshot": {"volume_id": volume, "force": True}}
        return str(self.ask("POST", SNAPSHOTS, body)["snapshot"]["id"])

    def rbd(self, *words: str) -> None:
        command = ["rbd", "--conf", str(self.ceph.conf), "--id", USER, *words]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    @contextmanager
    def held_snapshot(self) -> Iterator[None]:
        """In the block, a snapshot of the guest's disk cannot be taken: what has its name has a clone of the
        old format."""
        disk = f"vms/{self.guest.id}_disk"
        self.rbd("snap", "create", f"{disk}@taken")
        self.rbd("snap", "protect", f"{disk}@taken")
        self.rbd("clone", "--rbd-default-clone-format", "1", f"{disk}@taken", "vms/child")
        try:
            yield
        finally:
            self.rbd("rm", "vms/child")
            with suppress(subprocess.CalledProcessError):  # the host was asked again, and has removed it
                self.rbd("snap", "unprotect", f"{disk}@taken")


@pytest.fixture(scope="module")
def world(guest_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if not installed():
        pytest.skip("needs Ceph: tools/install-packages test")
    with real_machine() as (up, oracle):
        ceph = Ceph()
        cluster = Cluster(ceph.conf, USER)
        try:
            ceph.start()
            config = (
                f'[image]\nbackend = "rbd"\nrbd_store_user = "{USER}"\nrbd_store_ceph_conf = "{ceph.conf}"\n'
                f'[libvirt]\nvirt_type = "qemu"\nimages_type = "rbd"\nrbd_user = "{USER}"\n'
                f'images_rbd_ceph_conf = "{ceph.conf}"\n'
                f'[volume.backends.rbd]\ndriver = "rbd"\nrbd_user = "{USER}"\nrbd_ceph_conf = "{ceph.conf}"\n'
            )
            up.start(config)
            cloud = Cloud(up, oracle, guest_image)
            yield World(cloud, ceph, cluster, tmp_path_factory.mktemp("ceph"), config)
        finally:
            cluster.close()
            ceph.remove()


def test_all_its_disks_are_there(world: World) -> None:
    guest = world.guest
    assert world.names() == {"disk", "disk.eph0", "disk.swap"}
    assert guest.run("ls /sys/block | grep -c vd") == "3"
    assert guest.run("dd if=/dev/vdb bs=1 skip=1144 count=10 2>/dev/null") == "ephemeral0"
    assert guest.run("dd if=/dev/vdc bs=1 skip=4086 count=10 2>/dev/null") == "SWAPSPACE2"
    devices = json.loads(guest.run(f"wget -q -O - {METADATA}"))["devices"]
    assert [device["tags"] for device in devices if device["type"] == "disk"] == [["root"]]


def test_an_image_of_it_is_in_order(world: World) -> None:
    """What was not flushed is in it, and its file system has nothing to mend."""
    guest = world.guest
    guest.run("echo of the guest > /root/kept")
    image = world.taken(createImage={"name": "in-order"})
    assert guest.run("cat /run/hooked") == "freeze\nthaw"
    assert world.disks.snapshots(f"{guest.id}_disk") == set()
    assert how_it_came(world) == "in Ceph: the image service reads the disk's snapshot"
    root = world.root_of(image)
    assert found(root, "debugfs", "-R", "cat /root/kept") == "of the guest\n"
    assert "needs_recovery" not in found(root, "dumpe2fs", "-h")


def how_it_came(world: World) -> str:
    """The last image of it got its bytes."""
    path = f"{SERVERS}/{world.guest.id}/os-instance-actions"
    last = world.ask("GET", path)["instanceActions"][0]
    events = world.ask("GET", f"{path}/{last['request_id']}")["instanceAction"]["events"]
    return str(next(event["details"] for event in events if event["event"] == "upload_image"))


def found(root: Path, *command: str) -> str:
    done = subprocess.run([*command, str(root)], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_a_snapshot_of_its_volume_is_in_order(world: World) -> None:
    """Ceph has it at once, and the guest is asked before. It goes on though all is killed meanwhile."""
    guest = world.guest
    volume = world.ask("POST", VOLUMES, {"volume": {"size": 1}})["volume"]["id"]
    until(lambda: status_of(world, VOLUMES, volume) == "available", SOON, "the volume")
    body = {"volumeAttachment": {"volumeId": volume}}
    world.ask("POST", f"{SERVERS}/{guest.id}/os-volume_attachments", body)
    until(lambda: status_of(world, VOLUMES, volume) == "in-use", SOON, "the attach")
    guest.run("rm /run/hooked")
    first = world.snapshot(volume)
    until(lambda: status_of(world, SNAPSHOTS, first) == "available", SOON, "the snapshot")
    assert guest.run("cat /run/hooked") == "freeze\nthaw"

    guest.run("rm /run/hooked; touch /run/wait")
    second = world.snapshot(volume)
    until(lambda: guest.run("cat /run/hooked 2>/dev/null || true") == "freeze", SOON, "the agent to be asked")
    world.up.kill()
    guest.run("rm /run/wait")
    world.up.start(world.config)
    until(lambda: status_of(world, SNAPSHOTS, second) == "available", LATER, "the other snapshot")
    until(lambda: goes_on(guest), LATER, "the guest to go on")

    world.ask("DELETE", f"{SERVERS}/{guest.id}/os-volume_attachments/{volume}")
    until(lambda: status_of(world, VOLUMES, volume) == "available", SOON, "the detach")
    for path, one in ((SNAPSHOTS, first), (SNAPSHOTS, second), (VOLUMES, volume)):
        world.ask("DELETE", f"{path}/{one}")
        until(lambda path=path, one=one: status_of(world, path, one) is None, SOON, "it to go")


def goes_on(guest: Guest) -> bool:
    """It writes, and whoever held it let it go last."""
    try:
        return guest.run("touch /root/goes-on && sync; tail -n 1 /run/hooked", SOON) == "thaw"
    except AssertionError:
        return False


def status_of(world: World, path: str, ident: str) -> str | None:
    found = world.up.ask("GET", f"{path}/{ident}")[1].get(path.rpartition("/")[2][:-1])
    return str(found["status"]) if found else None


def test_it_goes_on_where_a_snapshot_fails(world: World) -> None:
    guest = world.guest
    guest.run("rm /run/hooked; touch /run/wait")
    image = world.act(createImage={"name": "never"})["image_id"]
    until(lambda: guest.run("cat /run/hooked 2>/dev/null || true") == "freeze", SOON, "the agent to be asked")
    with world.held_snapshot():
        guest.run("rm /run/wait")
        guest.becomes("ACTIVE", SOON)
        assert world.up.ask("GET", f"{IMAGES}/{image}")[0] == 404
        assert guest.run("cat /run/hooked") == "freeze\nthaw"
        guest.run("echo more > /root/more; sync")


def test_backups_are_rotated(world: World) -> None:
    """Without an agent, as it is."""
    world.guest.run("kill $(cat /run/agent.pid); rm /run/hooked")
    backup = {"name": "b", "backup_type": "daily", "rotation": 1}
    first = world.taken(createBackup=backup)
    assert "needs_recovery" in found(world.root_of(first), "dumpe2fs", "-h")
    second = world.taken(createBackup=backup)
    until(lambda: world.up.ask("GET", f"{IMAGES}/{first}")[0] == 404, SOON, "the first to go")
    until(lambda: first not in world.images.names(), SOON, "its bytes to go")
    assert second in world.images.names()
    world.ask("DELETE", f"{IMAGES}/{second}")


def test_it_is_rebuilt_of_an_image_of_it(world: World) -> None:
    guest = world.guest
    (image,) = (one["id"] for one in world.ask("GET", IMAGES)["images"] if one["name"] == "in-order")
    guest.act(rebuild={"imageRef": image})
    guest.becomes("ACTIVE", LATER)
    guest.awaits_boot()
    assert guest.run("cat /root/kept; ls /root/more 2>&1 | grep -c 'No such'") == "of the guest\n1"
    assert world.names() == {"disk", "disk.eph0", "disk.swap"}


def test_it_is_rescued_and_back(world: World) -> None:
    guest = world.guest
    guest.act(rescue={"rescue_image_ref": world.cloud.image})
    guest.becomes("RESCUE", LATER)
    guest.awaits_boot()
    assert world.names() == {"disk", "disk.eph0", "disk.swap", "disk.rescue"}
    own = "mkdir /run/own && mount /dev/vdb2 /run/own"
    guest.run(f"{own} && echo mended > /run/own/root/mended && sync && umount /run/own")
    guest.act(unrescue=None)
    guest.becomes("ACTIVE", LATER)
    assert world.names() == {"disk", "disk.eph0", "disk.swap"}
    guest.awaits_boot()
    assert guest.run("cat /root/kept /root/mended") == "of the guest\nmended"


def test_it_is_put_on_the_shelf_and_taken_again(world: World) -> None:
    guest = world.guest
    guest.run("echo late > /root/late; sync")
    guest.act(shelve=None)
    guest.becomes("SHELVED_OFFLOADED", LATER)
    assert world.disks.names() == set()
    guest.act(unshelve=None)
    guest.becomes("ACTIVE", LATER)
    guest.awaits_boot()
    assert guest.run("cat /root/kept /root/late") == "of the guest\nlate"
    assert world.names() == {"disk", "disk.eph0", "disk.swap"}


def test_no_secret_is_told_and_nothing_is_left(world: World) -> None:
    cloud, server = world.cloud, world.guest.id
    told = [
        json.dumps(world.ask("GET", f"{SERVERS}/{server}{path}")) for path in ("", "/os-instance-actions")
    ]
    for one in world.ask("GET", f"{SERVERS}/{server}/os-instance-actions")["instanceActions"]:
        path = f"{SERVERS}/{server}/os-instance-actions/{one['request_id']}"
        told.append(json.dumps(world.ask("GET", path)))
    assert places_of(world.ceph.key, cloud.up, server, "".join(told)) == []
    cloud.delete(world.guest)
    for image in world.ask("GET", IMAGES)["images"]:
        world.ask("DELETE", f"{IMAGES}/{image['id']}")
    for pool in (world.disks, world.images):
        until(lambda pool=pool: not pool.names() | pool.trashed(), SOON, f"{pool.name} to be empty")
    assert cloud.oracle.left() == []
    assert orphans(cloud.up) == "0 found\n"
