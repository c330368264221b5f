"""Servers with disks in Ceph: one boots from a clone, the image of another is elsewhere; nothing stays."""

from __future__ import annotations

import os
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from tests.ceph import USER, Ceph, installed
from tests.host_oracle import real_machine
from tests.orphans import orphans
from tests.running import Up, until
from tests.system.cloud import BOOT_SECONDS, SERVERS

from kilonova.rbd import Cluster

pytestmark = pytest.mark.system


@pytest.fixture
def machine() -> Iterator[tuple[Up, Ceph]]:
    """With a Ceph in its network: guests of others, with their ports, are in another one."""
    if not installed():
        pytest.skip("needs Ceph: tools/install-packages test")
    with real_machine() as (up, _):
        ceph = Ceph()
        try:
            yield up, ceph.start()
        finally:
            ceph.remove()


def test_a_server_is_a_clone_in_ceph_from_its_first_boot_to_its_end(
    machine: tuple[Up, Ceph], guest_image: Path
) -> None:
    up, ceph = machine
    with closing(Cluster(ceph.conf, USER)) as cluster:
        lives_in(cluster, up, ceph, guest_image)


def lives_in(cluster: Cluster, up: Up, ceph: Ceph, guest_image: Path) -> None:
    vms, images = cluster.pool("vms"), cluster.pool("images")
    up.start()
    elsewhere = up.image(bytes(1 << 20))
    assert up.stop() == 0
    up.start(
        f'[image]\nbackend = "rbd"\nrbd_store_user = "{USER}"\nrbd_store_ceph_conf = "{ceph.conf}"\n'
        f'[libvirt]\nvirt_type = "qemu"\nimages_type = "rbd"\nrbd_user = "{USER}"\n'
        f'images_rbd_ceph_conf = "{ceph.conf}"\n'
    )
    try:
        clone = posted(up, up.image(guest_image.read_bytes(), "qcow2"))
        copy = posted(up, elsewhere)
        for server in (clone, copy):
            assert up.settled(server, 120)["status"] == "ACTIVE", up.server(server)
        assert vms.names() == {f"{clone}_disk", f"{copy}_disk"}
        assert noted(up, clone) == "clone"
        assert noted(up, copy) == "copy: the image is not in this Ceph cluster"
        until(lambda: "login:" in console(up, clone), BOOT_SECONDS, "the guest to boot")

        total = up.ask("GET", "/compute/v2.1/os-hypervisors/statistics", headers=OLD)[1]
        assert total["hypervisor_statistics"]["local_gb"] == vms.capacity()[0] >> 30

        taken = image_of(up, clone)
        assert images.marked(taken)
        assert noted(up, clone, "upload_image") == "in Ceph: the image service reads the disk's snapshot"
        assert vms.snapshots(f"{clone}_disk") == set()
        again = posted(up, taken)
        assert up.settled(again)["status"] == "ACTIVE"
        assert noted(up, again) == "clone"

        delete_all(up)
        assert (vms.names(), vms.trashed()) == (set(), set())
        kept = goes_on_when_the_osd_is_back(up, ceph, elsewhere)
        assert (vms.names(), vms.trashed()) == (set(), set())
        assert images.names() - kept == set()
        assert orphans(up) == "0 found\n"
        vms.create(f"{clone}_disk", 1 << 20)
        assert orphans(up) == f"disks of a server in Ceph's pool vms: {clone}\n1 found\n"
        assert ceph.key not in up.log()
        vms.remove(f"{clone}_disk")
    finally:
        delete_all(up)


def goes_on_when_the_osd_is_back(up: Up, ceph: Ceph, elsewhere: str) -> set[str]:
    """It is stopped in the midst of an upload, of a clone, of a copy and of a delete, and started again: the
    images that there are in the end. Nothing failed, and the upload has its bytes."""
    before = {image["id"] for image in up.ask("GET", "/image/v2/images")[1]["images"]}
    data = os.urandom(8 << 20)
    with upload(up, data) as (image, rest):
        ceph.stop_osd()
        rest.set()
    (old,) = [one for one in before if noted_name(up, one) == "taken"]
    servers = [posted(up, old), posted(up, elsewhere)]
    for server in servers:
        until(lambda server=server: begun(up, server, "create_disks"), 60, "the build to come to its disk")
    ceph.start_osd()
    for server in servers:
        shown = up.settled(server, 120)
        assert shown["status"] == "ACTIVE", shown
    until(lambda: up.ask("GET", f"/image/v2/images/{image}")[1]["status"] == "active", 120, "the upload")
    found = urllib.request.Request(
        f"{up.url}/image/v2/images/{image}/file", headers={"X-Auth-Token": up.token()}
    )
    with urllib.request.urlopen(found, timeout=60) as answer:
        assert answer.read() == data
    ceph.stop_osd()
    for server in servers:
        assert up.ask("DELETE", f"{SERVERS}/{server}")[0] == 204
        until(lambda server=server: begun(up, server, "destroy"), 60, "the delete to come to the disk")
    ceph.start_osd()
    for server in servers:
        until(lambda server=server: up.server(server) is None, 120, f"{server} to go")
    assert up.unexplained() == []
    return {*before, image}


@contextmanager
def upload(up: Up, data: bytes) -> Iterator[tuple[str, threading.Event]]:
    """In the block half of the bytes are there; the others follow when the event is set, in a thread."""
    body = {"name": "slow", "disk_format": "raw", "container_format": "bare"}
    status, made = up.ask("POST", "/image/v2/images", body)
    assert status == 201, made
    half, rest = threading.Event(), threading.Event()

    def chunks() -> Iterator[bytes]:
        yield data[: len(data) // 2]
        half.set()
        assert rest.wait(60)
        yield data[len(data) // 2 :]

    headers = {"X-Auth-Token": up.token(), "Content-Type": "application/octet-stream"}
    request = urllib.request.Request(
        f"{up.url}/image/v2/images/{made['id']}/file", chunks(), headers, method="PUT"
    )

    def send() -> None:
        with urllib.request.urlopen(request, timeout=120) as answer:
            assert answer.status == 204

    sending = threading.Thread(target=send)
    sending.start()
    assert half.wait(60)
    yield str(made["id"]), rest


def begun(up: Up, server: str, step: str) -> bool:
    path = f"{SERVERS}/{server}/os-instance-actions"
    status, answer = up.ask("GET", path)
    if status != 200:
        return False
    newest = answer["instanceActions"][0]["request_id"]
    events = up.ask("GET", f"{path}/{newest}")[1]["instanceAction"]["events"]
    return any(event["event"] == step for event in events)


def noted_name(up: Up, image: str) -> str:
    return str(up.ask("GET", f"/image/v2/images/{image}")[1]["name"])


def delete_all(up: Up) -> None:
    for server in up.ask("GET", SERVERS)[1]["servers"]:
        assert up.ask("DELETE", f"{SERVERS}/{server['id']}")[0] == 204
        until(lambda server=server: up.server(server["id"]) is None, 60, f"{server['id']} to go")


OLD = {"OpenStack-API-Version": "compute 2.79"}


def posted(up: Up, image: str) -> str:
    status, made = up.post_server(image)
    assert status == 202, made
    return str(made["server"]["id"])


def noted(up: Up, server: str, step: str = "create_disks") -> str:
    """What the journal says of the making of its disks, or of another step."""
    path = f"{SERVERS}/{server}/os-instance-actions"
    for action in up.ask("GET", path)[1]["instanceActions"]:
        events = up.ask("GET", f"{path}/{action['request_id']}")[1]["instanceAction"]["events"]
        if found := [event["details"] for event in events if event["event"] == step]:
            return str(found[0])
    raise AssertionError(f"{server} has no step {step}")


def console(up: Up, server: str) -> str:
    status, answer = up.ask("POST", f"{SERVERS}/{server}/action", {"os-getConsoleOutput": {}})
    assert status == 200, answer
    return str(answer["output"])


def image_of(up: Up, server: str) -> str:
    """A snapshot of it, when it has its bytes."""
    status, made = up.ask("POST", f"{SERVERS}/{server}/action", {"createImage": {"name": "taken"}})
    assert status == 202, made
    path = f"/image/v2/images/{made['image_id']}"
    until(lambda: up.ask("GET", path)[1]["status"] == "active", 120, "the snapshot to be an image")
    return str(made["image_id"])
