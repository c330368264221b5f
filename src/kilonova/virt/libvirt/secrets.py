"""What a guest's way to its volumes needs to know and no document may hold: libvirt's secrets.

Ceph's key is the host's: of ``[libvirt] rbd_user`` or of whom the volume names, out of the keyring that
ceph.conf names; or the operator gave it to libvirtd (``rbd_secret_uuid``). The password of an iSCSI target
is libvirt's only while a guest is started or gets the volume: QEMU knows it from then on.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msgspec import structs

from kilonova.config import Libvirt
from kilonova.domain.block_devices import AttachedVolume
from kilonova.domain.errors import BuildFailed, Unavailable
from kilonova.domain.volumes import IscsiConnection, RbdConnection
from kilonova.virt.libvirt.secret_store import Store
from kilonova.virt.libvirt.xml.volume import VolumeDevice

_OURS = uuid.UUID("0b0a1dd4-7f0f-4c1f-9d0c-6f1a4c1d7f11")


class Secrets:
    """``initiator``: this host's name for iSCSI."""

    def __init__(self, store: Store, config: Libvirt, initiator: str) -> None:
        self._store = store
        self._config = config
        self._initiator = initiator
        self._given: set[str] = set()

    @contextmanager
    def lent(self, server_id: str, volumes: Sequence[AttachedVolume]) -> Iterator[list[VolumeDevice]]:
        """The volumes with the ids of their secrets: libvirt has these for this thread, in the block.

        BuildFailed: this host has no key, or no libvirt that keeps secrets.
        """
        with ExitStack() as undo:
            devices = [self._device(server_id, volume, undo) for volume in volumes]
            if any(device.secret is not None for device in devices):
                undo.enter_context(self._store.known())
            yield devices

    def _device(self, server_id: str, volume: AttachedVolume, undo: ExitStack) -> VolumeDevice:
        secret: str | None = None
        match volume.connection:
            case RbdConnection() as rbd:
                user = self._config.rbd_user or rbd.user
                volume = structs.replace(volume, connection=structs.replace(rbd, user=user))
                secret = self._ceph(user)
            case IscsiConnection(password=password) if password:
                secret = str(uuid.uuid5(uuid.UUID(volume.volume_id), server_id))
                undo.callback(self._store.drop, secret)
                self._store.put(secret, "iscsi", password.encode())
        return VolumeDevice(volume=volume, secret=secret, initiator=self._initiator)

    def _ceph(self, user: str) -> str:
        """libvirt has that user's key, under this id."""
        configured = self._config.rbd_secret_uuid
        secret = configured or str(uuid.uuid5(_OURS, user))
        # A daemon may have been started anew, and a key changed since this process has.
        if (configured or secret in self._given) and self._store.has(secret):
            return secret
        self._store.put(secret, "ceph", self._key(user))
        self._given.add(secret)
        return secret

    def _key(self, user: str) -> bytes:
        from kilonova.rbd.keyring import key_of

        try:
            return key_of(Path(self._config.images_rbd_ceph_conf), user)
        except Unavailable as error:
            reason = f"; nor has libvirt the secret {self._config.rbd_secret_uuid}"
            more = reason if self._config.rbd_secret_uuid else ""
            raise BuildFailed(f"a guest's way to Ceph: {error.message}{more}") from None
