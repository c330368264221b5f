"""What a guest's way to its volumes needs to know and no document may hold: libvirt's secrets.

Ceph's key is put into libvirt by the operator (``[libvirt] rbd_secret_uuid``). The password of an iSCSI
target is there only while a guest is started or gets the volume: QEMU knows it from then on.

libvirt without a daemon (``qemu:///embed``) has no secrets: there QEMU reads ceph.conf and the keyring
itself, which it does as client.admin only, and a target with a password is out of reach.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import libvirt

from kilonova.domain.block_devices import AttachedVolume
from kilonova.domain.errors import BuildFailed
from kilonova.domain.volumes import IscsiConnection, RbdConnection
from kilonova.virt.libvirt.connection import Connection
from kilonova.virt.libvirt.errors import translated
from kilonova.virt.libvirt.xml.build import element, to_text
from kilonova.virt.libvirt.xml.volume import VolumeDevice

_ADMIN = "admin"


@contextmanager
def lent(
    connection: Connection,
    rbd_secret: str,
    initiator: str,
    server_id: str,
    volumes: Sequence[AttachedVolume],
) -> Iterator[list[VolumeDevice]]:
    """The volumes with the ids of their secrets, which are there in the block. BuildFailed: none can be."""
    devices, passwords = [], {}
    for volume in volumes:
        secret = _secret_of(connection, rbd_secret, server_id, volume)
        devices.append(VolumeDevice(volume=volume, secret=secret, initiator=initiator))
        if isinstance(volume.connection, IscsiConnection) and secret is not None:
            passwords[secret] = volume.connection.password
    try:
        for secret, password in passwords.items():
            _define(connection, secret, password)
        yield devices
    finally:
        for secret in passwords:
            with suppress(libvirt.libvirtError):
                connection.get().secretLookupByUUIDString(secret).undefine()


def _secret_of(connection: Connection, rbd_secret: str, server_id: str, volume: AttachedVolume) -> str | None:
    match volume.connection:
        case RbdConnection(user=user):
            if connection.is_embedded:
                if user != _ADMIN:
                    raise BuildFailed(
                        f"volume {volume.volume_id} is reached as Ceph's client.{user}, which needs a "
                        "libvirtd on this host: [libvirt] uri, and its secret in rbd_secret_uuid"
                    )
                return None
            if not rbd_secret:
                raise BuildFailed("this host has no secret for Ceph: [libvirt] rbd_secret_uuid")
            return rbd_secret
        case IscsiConnection(password=password) if password:
            if connection.is_embedded:
                raise BuildFailed(
                    f"volume {volume.volume_id} is behind iSCSI with a password, which needs a libvirtd on "
                    "this host: [libvirt] uri"
                )
            return str(uuid.uuid5(uuid.UUID(volume.volume_id), server_id))
    return None


def _define(connection: Connection, secret: str, password: str) -> None:
    document = element(
        "secret",
        element("uuid", text=secret),
        element("usage", element("target", text=secret), type="iscsi"),
        ephemeral="yes",
        private="yes",
    )
    with translated("give libvirt the password of an iSCSI target"):
        connection.get().secretDefineXML(to_text(document), 0).setValue(password.encode(), 0)
