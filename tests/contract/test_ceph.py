"""The tests' Ceph: what others build on."""

from __future__ import annotations

import rados
import rbd
from tests.ceph import USER, Ceph


def test_an_osd_that_was_stopped_has_its_data_when_it_starts_again(ceph: Ceph) -> None:
    cluster = rados.Rados(conffile=str(ceph.conf), name=f"client.{USER}")
    cluster.connect(timeout=10)
    try:
        with cluster.open_ioctx("volumes") as io:
            rbd.RBD().create(io, "kept", 1 << 20)
            with rbd.Image(io, "kept") as image:
                image.write(b"data", 0)
            ceph.stop_osd()
            ceph.start_osd()
            with rbd.Image(io, "kept") as image:
                assert image.read(0, 8) == b"data\0\0\0\0"
            rbd.RBD().remove(io, "kept")
    finally:
        cluster.shutdown()
