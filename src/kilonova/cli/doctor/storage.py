"""Ceph and iSCSI, where they are configured."""

from __future__ import annotations

from pathlib import Path

from kilonova.cli.doctor.check import Check, NotAsked, Where, apt
from kilonova.disk_image import qemu_img
from kilonova.domain.errors import BuildFailed, KilonovaError, Unavailable
from kilonova.virt.libvirt.needs import Lacking
from kilonova.virt.libvirt.reach import PACKAGE

_CEPH_ANSWERS = 10
"""Seconds that a cluster has."""


def _ceph(where: Where) -> str:
    if not where.ceph:
        raise NotAsked
    from kilonova.rbd import bindings

    try:
        bindings.check()
    except Unavailable as error:
        raise Lacking(error.message) from error
    return "can be imported"


def _disks_in_ceph(where: Where) -> str:
    options = where.guests
    if options.images_type != "rbd":
        raise NotAsked
    from kilonova.rbd import Cluster
    from kilonova.rbd.keyring import key_of

    conf = Path(options.images_rbd_ceph_conf)
    cluster = Cluster(conf, options.rbd_user, timeout=_CEPH_ANSWERS)
    try:
        if not options.rbd_secret_uuid:
            key_of(conf, options.rbd_user)
        total, free = cluster.pool(options.images_rbd_pool).capacity()
    except KilonovaError as error:
        raise Lacking(error.message) from error
    finally:
        cluster.close()
    return f"pool {options.images_rbd_pool}: {free >> 30} of {total >> 30} GiB free"


def _tgtd(where: Where) -> str:
    if not where.tgt_sockets:
        raise NotAsked
    from kilonova.volume.backends.tgt import Tgt

    try:
        served = [len(Tgt(address).targets()) for address in where.tgt_sockets]
    except KilonovaError as error:
        raise Lacking(error.message) from error
    return f"serves {sum(served)} volumes"


def _block_drivers(_: Where) -> str:
    try:
        lacks = [name for name in ("rbd", "iscsi") if not qemu_img.has_driver(name)]
    except BuildFailed as error:
        raise Lacking(error.message) from error
    if lacks:
        raise Lacking(f"no {' and no '.join(lacks)}")
    return "rbd, iscsi"


CHECKS = (
    Check(
        "Ceph's Python bindings",
        _ceph,
        "images and volumes in Ceph cannot be reached",
        apt("python3-rados", "python3-rbd"),
    ),
    Check(
        "guests' disks in Ceph",
        _disks_in_ceph,
        "no server can be built here: ceph.conf, the user's keyring and the pool must be there, see"
        " docs/how-to/keep-disks-in-ceph.md",
        "",
    ),
    Check(
        "QEMU's drivers of Ceph and iSCSI",
        _block_drivers,
        "guests here have no volumes behind iSCSI, and no volumes or disks in Ceph",
        apt(PACKAGE),
        needed=False,
    ),
    Check(
        "tgtd",
        _tgtd,
        "it serves the volumes of the configured iSCSI backend",
        apt("tgt"),
    ),
)
