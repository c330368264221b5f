"""Whether this host can reach its guests' volumes, tried before QEMU is told of them.

QEMU connects while the guest stands still: to an address that does not answer, for minutes. And what a host
lacks it says in words that name no remedy.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Sequence

from kilonova.disk_image import qemu_img
from kilonova.domain.block_devices import AttachedVolume
from kilonova.domain.errors import BuildFailed
from kilonova.domain.volumes import FileConnection, IscsiConnection, RbdConnection

PACKAGE = "qemu-block-extra"
"""Debian's and Ubuntu's name of what QEMU reaches Ceph and iSCSI with."""
_PATIENCE = 5.0
"""Seconds for an address, or all that lead to the same store, to answer."""
_known: set[str] = set()
"""Drivers that QEMU has here."""


def check(volumes: Sequence[AttachedVolume]) -> None:
    """BuildFailed names what is missing for one of them. A store that several are in is asked once."""
    stores: dict[tuple[str, ...], str] = {}
    drivers: dict[str, str] = {}
    for volume in volumes:
        match volume.connection:
            case FileConnection(path=path):
                _check_file(volume.volume_id, path)
            case RbdConnection(monitors=monitors):
                drivers.setdefault("rbd", volume.volume_id)
                stores.setdefault(tuple(monitors), "no monitor of Ceph")
            case IscsiConnection(portal=portal):
                drivers.setdefault("iscsi", volume.volume_id)
                stores.setdefault((portal,), "no iSCSI target")
    for driver, volume_id in drivers.items():
        _check_driver(driver, volume_id)
    for addresses, lacking in stores.items():
        if not _answers(addresses):
            raise BuildFailed(f"{lacking} answers this host at {' or '.join(addresses)}")


def _check_file(volume_id: str, path: str) -> None:
    try:
        os.stat(path)
    except OSError as error:
        raise BuildFailed(
            f"volume {volume_id} is a file that this host has not ({path}: {error.strerror}): a backend of "
            "files serves one machine, or hosts that share its file system"
        ) from error


def _check_driver(driver: str, volume_id: str) -> None:
    if driver in _known:
        return
    if not qemu_img.has_driver(driver):
        raise BuildFailed(
            f"QEMU on this host has no driver for {driver}, which volume {volume_id} needs: "
            f"apt-get install {PACKAGE}"
        )
    _known.add(driver)


def _answers(addresses: Iterable[str]) -> bool:
    """Whether anybody listens at one of them (``address:port``)."""
    end = time.monotonic() + _PATIENCE
    for address in addresses:
        host, _, port = address.rpartition(":")
        left = end - time.monotonic()
        try:
            socket.create_connection((host.strip("[]"), int(port)), max(left, 0.1)).close()
        except (OSError, ValueError):
            continue
        return True
    return False
