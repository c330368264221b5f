"""`kilonova up` as it is wired, with its images in Ceph; an aggregate whose hosts fetch one beforehand."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from tests.ceph import USER, Ceph
from tests.running import Up, until

from kilonova.rbd import Cluster


def test_images_are_in_ceph_and_hosts_fetch_them_beforehand(tmp_path: Path, ceph: Ceph) -> None:
    raw, qcow2 = tmp_path / "raw", tmp_path / "qcow2"
    raw.write_bytes(os.urandom(1 << 20))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2], check=True)
    cluster = Cluster(ceph.conf, USER)
    pool = cluster.pool("images")
    up = Up(tmp_path / "state", hosts=2)
    rbd = f'backend = "rbd"\nrbd_store_user = "{USER}"\nrbd_store_ceph_conf = "{ceph.conf}"'
    volumes = f'driver = "rbd"\nrbd_user = "{USER}"\nrbd_ceph_conf = "{ceph.conf}"'
    up.start(f'host = "n"\n[image]\n{rbd}\n[volume.backends.ceph]\n{volumes}\n')
    try:
        image = up.image(qcow2.read_bytes(), "qcow2")
        assert up.ask("GET", f"/image/v2/images/{image}")[1]["disk_format"] == "raw"
        with pool.open(image, "snap") as file:
            assert file.read() == raw.read_bytes()
        _, found = up.ask("POST", "/compute/v2.1/os-aggregates", {"aggregate": {"name": "a"}})
        path = f"/compute/v2.1/os-aggregates/{found['aggregate']['id']}"
        assert up.ask("POST", f"{path}/action", {"add_host": {"host": "n-2"}})[0] == 200
        assert up.ask("POST", f"{path}/images", {"cache": [{"id": image}]})[0] == 202
        until(lambda: "image_cached" in up.log(), 60, "the host to have the image")
        status, made = up.post_server(image)
        assert status == 202, made
        assert up.settled(made["server"]["id"])["status"] == "ACTIVE"
        _nothing_is_lost_while_an_osd_is_away(up, ceph, image, raw.read_bytes())
        assert up.ask("DELETE", f"/image/v2/images/{image}")[0] == 204
        assert image not in pool.names()
        assert (volume_pool := cluster.pool("volumes")).names() | volume_pool.trashed() == set()
    finally:
        assert up.stop() == 0
        cluster.close()


def _nothing_is_lost_while_an_osd_is_away(up: Up, ceph: Ceph, image: str, data: bytes) -> None:
    """What is asked for meanwhile waits, and is there when the OSD is there again."""
    path = "/volume/v3/volumes"

    def post(**said: Any) -> str:
        status, made = up.ask("POST", path, {"volume": {"size": 1, **said}})
        assert status == 202, made
        return str(made["volume"]["id"])

    def status(of: str) -> str:
        found: str = up.ask("GET", f"{path}/{of}")[1]["volume"]["status"]
        return found

    kept, leaves, grows = post(imageRef=image), post(), post(imageRef=image)
    until(lambda: {status(one) for one in (kept, leaves, grows)} == {"available"}, 60, "volumes")
    ceph.stop_osd()
    try:
        made = [post(), post(imageRef=image), post(source_volid=kept)]
        assert up.ask("DELETE", f"{path}/{leaves}")[0] == 202
        extend = {"os-extend": {"new_size": 2}}
        assert up.ask("POST", f"{path}/{grows}/action", extend)[0] == 202
        assert {status(one) for one in made} == {"creating"}
        assert (status(leaves), status(grows)) == ("deleting", "extending")
    finally:
        ceph.start_osd()
    until(lambda: up.unexplained() == [], 120, "all to be at its end")
    there = [kept, grows, *made]
    assert {status(one) for one in there} == {"available"}
    assert up.ask("GET", f"{path}/{leaves}")[0] == 404
    cluster = Cluster(ceph.conf, USER)
    pool = cluster.pool("volumes")
    try:
        assert len(pool.names()) == 5
        for one in (kept, grows, *made[1:]):
            with pool.open(f"volume-{one}") as file:
                assert file.read(len(data)) == data
        assert pool.size(f"volume-{grows}") == 2 << 30
    finally:
        cluster.close()
    for one in there:
        assert up.ask("DELETE", f"{path}/{one}")[0] == 202
    until(lambda: up.ask("GET", path)[1]["volumes"] == [], 60, "all to go")
