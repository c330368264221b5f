"""What needs real guests: the cost over bare libvirt, disks in Ceph, an image fetched once, memory, start."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.ceph import USER, Ceph, installed
from tests.running import until

from bench.cloud import FLAVOR, NO_LIMIT, cloud, idle_mib, load, start_again
from bench.figure import Figure
from bench.load import p50

_GUEST = Path("build/guest.qcow2")
_ROUNDS = 7
_IN_CEPH = """
[image]
backend = "rbd"
rbd_store_user = "{user}"
rbd_store_ceph_conf = "{conf}"
[libvirt]
virt_type = "qemu"
images_type = "rbd"
rbd_user = "{user}"
images_rbd_ceph_conf = "{conf}"
"""


def real_guests() -> list[Figure]:
    """POST → RUNNING by Kilonova, and the same domain by libvirt alone on its ready disk, in one run."""
    with cloud("libvirt", 1) as up:
        image = up.image(_GUEST.read_bytes(), "qcow2")
        ours = []
        for _ in range(_ROUNDS):
            told = load(up, "sequential", image=image, flavor=FLAVOR, count=1)
            ours += told["active"]
            load(up, "delete", ids=told["ids"], threads=1)
        again = start_again(up)
        memory = idle_mib(up)
    bare = _bare_libvirt()
    return [
        Figure("real guest: POST → RUNNING, p50", p50(ours[1:]), "ms"),
        Figure("the same domain by bare libvirt, p50", p50(bare), "ms"),
        Figure("… the difference", p50(ours[1:]) - p50(bare), "ms", at_most=250),
        Figure("kilonova up ready, second start, libvirt", again, "s", at_most=2),
        Figure("memory after that start, idle, libvirt (PSS)", memory, "MiB", at_most=120),
    ]


def guests_in_ceph() -> list[Figure]:
    """POST → RUNNING of a guest whose disk is a clone of its image in the same Ceph."""
    if not installed():
        return []
    ceph = Ceph(store="bluestore")
    try:
        ceph.start()
        stores = _IN_CEPH.format(user=USER, conf=ceph.conf)
        with cloud("libvirt", 1, NO_LIMIT + stores) as up:
            image = up.image(_GUEST.read_bytes(), "qcow2")
            took = []
            for _ in range(_ROUNDS):
                told = load(up, "sequential", image=image, flavor=FLAVOR, count=1)
                took += told["active"]
                load(up, "delete", ids=told["ids"], threads=1)
    finally:
        ceph.remove()
    return [Figure("real guest in Ceph: POST → RUNNING, p50", p50(took[1:]), "ms", at_most=1200)]


def _bare_libvirt() -> list[float]:
    """Seconds from defineXML to RUNNING, for the XML and the disk that our driver made."""
    import subprocess
    import sys

    with tempfile.TemporaryDirectory(prefix="kilonova-bench-") as folder:
        command = [sys.executable, "-m", "bench.bare_libvirt", folder, str(_GUEST), str(_ROUNDS)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    return [float(word) for word in done.stdout.split()]


def one_fetch() -> list[Figure]:
    """20 creates at once of an image that the host does not have."""
    room = NO_LIMIT + "[compute]\ncpu_allocation_ratio = 16.0\n"
    with cloud("libvirt", 1, room) as up:
        image = up.image(_GUEST.read_bytes(), "qcow2")
        made = load(up, "create", image=image, flavor=FLAVOR, count=20, threads=20)
        fetched = up.log().count("image_fetched")
        load(up, "delete", ids=made["ids"], threads=4)
        until(lambda: not up.ask("GET", "/compute/v2.1/servers")[1]["servers"], 60, "the servers to go")
        memory = idle_mib(up)
    note = f"{made['active']} ACTIVE in {made['wall']:.1f} s"
    return [
        Figure("20 creates at once of an uncached image: fetches", fetched, "", at_most=1, note=note),
        Figure("memory after those 20 builds and deletes, libvirt (PSS)", memory, "MiB", at_most=130),
    ]
