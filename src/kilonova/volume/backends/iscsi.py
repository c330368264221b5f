"""Volumes for several machines without Ceph: files of one machine, served by tgtd to QEMU's own initiator.

A volume that a host may reach is a target of its own, with one account (CHAP) and a list of the initiators
that are let in. What is to be served is kept beside the volume, ``volume-<id>.exports``, for its owner alone
to read, as the volume is: tgtd itself forgets all of it when it ends, and is told again.

tgtd breaks when one of several accounts of a target is taken away, so all hosts share the volume's one; a
password lasts until no host has the volume any more.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from kilonova import log
from kilonova.cancel import Cancel
from kilonova.disk_image.transfer import ImageSource
from kilonova.domain import codec
from kilonova.domain.errors import BadRequest, Unavailable, VolumeFailed
from kilonova.domain.volumes import Connection, Connector, IscsiConnection
from kilonova.volume.backends import names, parts
from kilonova.volume.backends.copying import GuestWrites
from kilonova.volume.backends.file import FileBackend
from kilonova.volume.backends.tgt import Target, Tgt

_log = log.get("volume")

_EXPORTS = ".exports"
_INITIATOR = re.compile(r"(iqn|eui|naa)\.[A-Za-z0-9.:_-]{1,219}")


class _Exports(msgspec.Struct, frozen=True, kw_only=True):
    password: str
    initiators: list[str]


class IscsiBackend(FileBackend):
    """A volume.base.Backend: files in ``folder``, served by the tgtd of this machine at ``portal``
    (``address:port``). ``prefix``: what targets' names begin with."""

    def __init__(self, folder: Path, images: ImageSource, *, tgt: Tgt, portal: str, prefix: str) -> None:
        super().__init__(folder, images, shared=True)
        self._tgt = tgt
        self._portal = portal
        self._prefix = prefix
        self._one_at_a_time = threading.Lock()

    def check(self) -> None:
        """And whatever tgtd should serve is served. What cannot be is no other volume's trouble."""
        super().check()
        with self._one_at_a_time:
            targets = self._tgt.targets()
            for name in self._names():
                volume_id = names.volume_of(name)
                if volume_id is not None and name.endswith(_EXPORTS):
                    try:
                        self._serve(volume_id, targets.get(self._iqn(volume_id)))
                    except VolumeFailed as error:
                        _log.warning("not_served", volume=volume_id, error=error.message)

    def connect(self, volume_id: str, connector: Connector) -> Connection:
        if not _INITIATOR.fullmatch(connector.initiator):
            raise BadRequest(f"Host {connector.host} has no initiator's name: {connector.initiator!r}")
        path = self.path(volume_id)
        with self._one_at_a_time, self._open(path):
            exports = self._exports(volume_id) or _Exports(password=secrets.token_hex(16), initiators=[])
            if connector.initiator not in exports.initiators:
                exports = msgspec.structs.replace(
                    exports, initiators=[*exports.initiators, connector.initiator]
                )
                self._keep(volume_id, exports)
            self._serve(volume_id, self._target(volume_id))
        return IscsiConnection(
            portal=self._portal,
            iqn=self._iqn(volume_id),
            lun=1,
            username=volume_id,
            password=exports.password,
        )

    def disconnect(self, volume_id: str, connector: Connector) -> None:
        with self._one_at_a_time:
            exports, target = self._exports(volume_id), self._target(volume_id)
            rest = [name for name in exports.initiators if name != connector.initiator] if exports else []
            if exports is None or not rest:
                self._stop(volume_id, target)
                return
            self._keep(volume_id, msgspec.structs.replace(exports, initiators=rest))
            if target is not None:
                self._shut_out(target, set(target.initiators) - set(rest))

    def extend(self, volume_id: str, size_gb: int, cancel: Cancel) -> None:
        super().extend(volume_id, size_gb, cancel)
        self._serve_again(volume_id)

    def revert(self, volume_id: str, snapshot_id: str, cancel: Cancel) -> None:
        super().revert(volume_id, snapshot_id, cancel)
        self._serve_again(volume_id)

    def delete(self, volume_id: str) -> None:
        names.checked(volume_id)
        snapshots = [one for one, of in self.snapshots().items() if of == volume_id]
        with self._one_at_a_time:
            for snapshot_id in snapshots:
                self._withdraw(snapshot_id)
            self._stop(volume_id, self._target(volume_id))
        super().delete(volume_id)

    def volumes(self) -> set[str]:
        return super().volumes() | self._served()

    def exports(self) -> set[str]:
        kept = {names.volume_of(name) for name in self._names() if name.endswith(_EXPORTS)}
        return self._served() | {ident for ident in kept if ident is not None}

    def _served(self) -> set[str]:
        """Volumes that tgtd has targets of."""
        served = {
            names.volume_of(name.removeprefix(self._prefix))
            for name in self._tgt.targets()
            if name.startswith(self._prefix)
        }
        return {ident for ident in served if ident is not None}

    @contextmanager
    def unwritten(self, path: Path, file: BinaryIO) -> Iterator[None]:
        """No guest has it before, and none has written to it after: tgtd knows none of QEMU's locks, and lets
        a guest begin in the midst."""
        before = os.fstat(file.fileno()).st_mtime_ns
        self._refuse_if_used(path)
        yield
        if os.fstat(file.fileno()).st_mtime_ns != before:
            raise VolumeFailed("a guest began to write to the volume while it was copied")

    def _refuse_if_used(self, path: Path) -> None:
        target = self._target(names.volume_of(path.name) or "")
        if target is not None and target.path == str(path) and target.sessions:
            raise GuestWrites("a guest has the volume, and this file system cannot copy of one moment")

    @contextmanager
    def offered(self, path: Path, volume_id: str, snapshot_id: str) -> Iterator[Connection]:
        """By a target of its own, which lets in whom the volume's does."""
        exports, password = self._exports(volume_id), secrets.token_hex(16)
        if exports is None:
            raise Unavailable(f"no host has volume {volume_id} any more")
        try:
            with self._one_at_a_time:
                self._withdraw(snapshot_id)  # what a kill left
                target = self._new_target(self._snapshot_iqn(snapshot_id))
                self._tgt.new_disk(target.tid, path)
                self._tgt.new_account(snapshot_id, password)
                self._tgt.bind_account(target.tid, snapshot_id)
                for initiator in exports.initiators:
                    self._tgt.let_in(target.tid, initiator)
                self._tgt.set_ready(target.tid, True)
            yield IscsiConnection(
                portal=self._portal, iqn=target.name, lun=1, username=snapshot_id, password=password
            )
        finally:
            with self._one_at_a_time:
                self._withdraw(snapshot_id)

    def delete_snapshot(self, volume_id: str, snapshot_id: str) -> None:
        names.checked(snapshot_id)
        with self._one_at_a_time:
            self._withdraw(snapshot_id)
        super().delete_snapshot(volume_id, snapshot_id)

    def _withdraw(self, snapshot_id: str) -> None:
        """The account also if there is no target: a kill may have left it alone, with a password that nobody
        knows any more."""
        target = self._tgt.targets().get(self._snapshot_iqn(snapshot_id))
        if target is not None:
            self._tgt.remove_target(target.tid)
        self._tgt.remove_account(snapshot_id)

    def _snapshot_iqn(self, snapshot_id: str) -> str:
        return f"{self._prefix}snapshot-{snapshot_id}"

    # --- what tgtd serves
    def _serve(self, volume_id: str, target: Target | None) -> None:
        exports = self._exports(volume_id)
        if exports is None:
            return
        if target is None:
            # An account that a kill left may have another password.
            self._tgt.remove_account(volume_id)
            target = self._new_target(self._iqn(volume_id))
        if target.path is None:
            self._tgt.new_disk(target.tid, self.path(volume_id))
        if volume_id not in target.accounts:
            self._tgt.remove_account(volume_id)
            self._tgt.new_account(volume_id, exports.password)
            self._tgt.bind_account(target.tid, volume_id)
        for initiator in exports.initiators:
            if initiator not in target.initiators:
                self._tgt.let_in(target.tid, initiator)
        self._shut_out(target, set(target.initiators) - set(exports.initiators))
        if not target.ready:
            self._tgt.open_again(target.tid, self.path(volume_id))
            self._tgt.set_ready(target.tid, True)

    def _serve_again(self, volume_id: str) -> None:
        """The file as it is now: larger, or another one."""
        with self._one_at_a_time:
            target = self._target(volume_id)
            if target is not None and target.path is not None:
                self._tgt.set_ready(target.tid, False)
                with self._open(self.path(volume_id), "r+b") as file, parts.storage_errors():
                    os.fsync(file.fileno())  # what was asked before is done
                self._tgt.open_again(target.tid, self.path(volume_id))
                self._tgt.set_ready(target.tid, True)

    def _new_target(self, name: str) -> Target:
        taken = {target.tid for target in self._tgt.targets().values()}
        tid = next(tid for tid in range(1, len(taken) + 2) if tid not in taken)
        while not self._tgt.new_target(tid, name):
            tid += 1  # another program's, meanwhile
        return self._tgt.targets()[name]

    def _shut_out(self, target: Target, initiators: set[str]) -> None:
        for initiator in initiators:
            self._tgt.shut_out(target.tid, initiator)
        for session in target.sessions:
            if session.initiator in initiators:
                self._tgt.end(target.tid, session)

    def _stop(self, volume_id: str, target: Target | None) -> None:
        """Nobody has it: the record goes last, for it says that something is to be stopped."""
        if target is not None:
            self._tgt.remove_target(target.tid)
        if self._exports_path(volume_id).exists():
            self._tgt.remove_account(volume_id)
            self._exports_path(volume_id).unlink(missing_ok=True)

    def _target(self, volume_id: str) -> Target | None:
        return self._tgt.targets().get(self._iqn(volume_id))

    def _iqn(self, volume_id: str) -> str:
        return f"{self._prefix}volume-{volume_id}"

    # --- what is to be served
    def _exports_path(self, volume_id: str) -> Path:
        path = self.path(volume_id)
        return path.with_name(path.name + _EXPORTS)

    def _exports(self, volume_id: str) -> _Exports | None:
        with parts.storage_errors():
            try:
                return codec.from_json(self._exports_path(volume_id).read_bytes(), _Exports)
            except FileNotFoundError:
                return None

    def _keep(self, volume_id: str, exports: _Exports) -> None:
        path = self._exports_path(volume_id)
        with parts.being_made(path) as part:
            part.write(msgspec.json.encode(exports))
            parts.put(part, path)
