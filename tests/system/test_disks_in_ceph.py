"""Servers with disks in Ceph: one boots from a clone, the image of another is elsewhere; nothing stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.ceph import USER, Ceph, installed
from tests.host_oracle import real_machine
from tests.running import Up, until
from tests.system.cloud import BOOT_SECONDS, SERVERS

from kilonova.cli.doctor import doctor
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
    cluster = Cluster(ceph.conf, USER)
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
            assert up.settled(server)["status"] == "ACTIVE", up.server(server)
        assert vms.names() == {f"{clone}_disk", f"{copy}_disk"}
        assert noted(up, clone) == "clone"
        assert noted(up, copy) == "copy: the image is not in this Ceph cluster"
        until(lambda: "login:" in console(up, clone), BOOT_SECONDS, "the guest to boot")

        total = up.ask("GET", "/compute/v2.1/os-hypervisors/statistics", headers=OLD)[1]
        assert total["hypervisor_statistics"]["local_gb"] == vms.capacity()[0] >> 30

        taken = image_of(up, clone)
        assert images.marked(taken)
        assert vms.snapshots(f"{clone}_disk") == set()
        again = posted(up, taken)
        assert up.settled(again)["status"] == "ACTIVE"
        assert noted(up, again) == "clone"

        delete_all(up)
        assert (vms.names(), vms.trashed()) == (set(), set())
        vms.create(f"{clone}_disk", 1 << 20)
        options = ["--orphans", "--state", str(up.state), "--config", str(up.state / "test.toml")]
        found = CliRunner().invoke(doctor, options)
        assert found.output == f"disks of a server in Ceph's pool vms: {clone}\n1 found\n"
        assert ceph.key not in up.log()
        vms.remove(f"{clone}_disk")
    finally:
        delete_all(up)
        cluster.close()


def delete_all(up: Up) -> None:
    for server in up.ask("GET", SERVERS)[1]["servers"]:
        assert up.ask("DELETE", f"{SERVERS}/{server['id']}")[0] == 204
        until(lambda server=server: up.server(server["id"]) is None, 60, f"{server['id']} to go")


OLD = {"OpenStack-API-Version": "compute 2.79"}


def posted(up: Up, image: str) -> str:
    status, made = up.post_server(image)
    assert status == 202, made
    return str(made["server"]["id"])


def noted(up: Up, server: str) -> str:
    """What the journal says of the making of its disks."""
    path = f"{SERVERS}/{server}/os-instance-actions"
    (created,) = up.ask("GET", path)[1]["instanceActions"][-1:]
    events = up.ask("GET", f"{path}/{created['request_id']}")[1]["instanceAction"]["events"]
    return str(next(event["details"] for event in events if event["event"] == "create_disks"))


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
