"""`kilonova up` as it is wired, with its images in Ceph; an aggregate whose hosts fetch one beforehand."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

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
    up.start(f'host = "n"\n[image]\n{rbd}\n')
    try:
        image = up.image(qcow2.read_bytes(), "qcow2")
        assert up.ask("GET", f"/image/v2/images/{image}")[1]["disk_format"] == "raw"
        with pool.open(image, "snap") as file:
            assert file.read() == raw.read_bytes()
        _, found = up.ask("POST", "/compute/v2.1/os-aggregates", {"aggregate": {"name": "a"}})
        path = f"/compute/v2.1/os-aggregates/{found['aggregate']['id']}"
        assert up.ask("POST", f"{path}/action", {"add_host": {"host": "n-2"}})[0] == 200
        assert up.ask("POST", f"{path}/images", {"cache": [{"id": image}]})[0] == 202
        until(lambda: "image_cached" in up.log(), 20, "the host to have the image")
        status, made = up.post_server(image)
        assert status == 202, made
        assert up.settled(made["server"]["id"])["status"] == "ACTIVE"
        assert up.ask("DELETE", f"/image/v2/images/{image}")[0] == 204
        assert image not in pool.names()
    finally:
        assert up.stop() == 0
        cluster.close()
