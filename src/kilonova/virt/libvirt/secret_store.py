"""Where libvirt keeps secrets: in its daemon, or in our own process.

No secret is written to a disk, nothing but libvirt's drivers may read one, and none is left behind.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import libvirt

from kilonova.domain.errors import BuildFailed, Unavailable
from kilonova.virt.libvirt.connection import Connection
from kilonova.virt.libvirt.errors import translated
from kilonova.virt.libvirt.xml.build import element, to_text

Kind = Literal["ceph", "iscsi"]
_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own is made there, or refused
_NEEDS_DAEMON = "guests' disks that need a secret need a libvirtd on this host: [libvirt] uri"


class Store(Protocol):
    """Every method raises what errors.translate says, and BuildFailed where there can be no secrets."""

    def has(self, secret: str) -> bool: ...

    def put(self, secret: str, kind: Kind, value: bytes) -> None:
        """It is that from now on."""

    def drop(self, secret: str) -> None:
        """Nobody needs it any more."""

    def known(self) -> Any:
        """A context: guests that this thread starts in it have their secrets."""


class DaemonStore:
    """Of a libvirtd, which forgets them when it ends."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def has(self, secret: str) -> bool:
        return _has(self._connection.get(), secret)

    def put(self, secret: str, kind: Kind, value: bytes) -> None:
        with translated("give libvirt a secret"):
            document = _document(secret, kind, ephemeral=True)
            self._connection.get().secretDefineXML(document, 0).setValue(value, 0)

    def drop(self, secret: str) -> None:
        with suppress(libvirt.libvirtError, Unavailable):
            self._connection.get().secretLookupByUUIDString(secret).undefine()

    @contextmanager
    def known(self) -> Iterator[None]:
        yield


class EmbeddedStore:
    """Of libvirt inside our process (``secret:///embed``), which is made for a main program of one thread.

    It tells the secrets only to the thread that opened it, and only if that has an identity; it cannot be
    opened again; and it calls a function of its daemon's, which is not there, when a secret is ephemeral or
    undefined (libvirt 9, and later ones, src/secret/secret_driver.c). So there is one for the process, its
    files are in memory and removed as soon as they are written, what is dropped is overwritten, and each
    thread is introduced to it while it starts a guest, by three functions of libvirt's that no header has.
    """

    def __init__(self, name: str) -> None:
        """``name``: of what no other process has."""
        self._root = in_memory(name)

    def has(self, secret: str) -> bool:
        return _has(self._opened().connection, secret)

    def put(self, secret: str, kind: Kind, value: bytes) -> None:
        driver = self._opened()
        with translated("give libvirt a secret"), driver.writing():
            document = _document(secret, kind, ephemeral=False)
            driver.connection.secretDefineXML(document, 0).setValue(value, 0)

    def drop(self, secret: str) -> None:
        driver = self._opened()
        with suppress(libvirt.libvirtError), driver.writing():
            driver.connection.secretLookupByUUIDString(secret).setValue(b"\0", 0)

    @contextmanager
    def known(self) -> Iterator[None]:
        driver = self._opened()
        driver.introduce(driver.identity, driver.pointer)
        try:
            yield
        finally:
            driver.introduce(None, None)

    def _opened(self) -> _EmbeddedDriver:
        global _embedded  # noqa: PLW0603 - libvirt's driver is one for the process
        with _embedded_lock:
            if _embedded is None:
                _embedded = _EmbeddedDriver(self._root)
            return _embedded


class _EmbeddedDriver:
    def __init__(self, root: Path) -> None:
        """BuildFailed: this libvirt cannot."""
        try:
            library = ctypes.CDLL("libvirt.so.0")
            get_identity = library.virIdentityGetSystem
            self._set_identity = library.virIdentitySetCurrent
            self._set_connection = library.virSetConnectSecret
        except (OSError, AttributeError) as error:
            raise BuildFailed(_NEEDS_DAEMON) from error
        get_identity.restype = ctypes.c_void_p
        for function in (self._set_identity, self._set_connection):
            function.argtypes = [ctypes.c_void_p]
        self._files = root / "etc/secrets"
        self._lock = threading.Lock()
        _make_own(root)
        try:
            self.connection: Any = libvirt.open(f"secret:///embed?root={root}")
        except libvirt.libvirtError as error:
            raise BuildFailed(f"{_NEEDS_DAEMON} ({error.get_error_message()})") from error
        self.pointer = _pointer(self.connection)
        self.identity = get_identity()
        if self.identity is None:
            raise BuildFailed(_NEEDS_DAEMON)
        atexit.register(partial(shutil.rmtree, root, ignore_errors=True))

    def introduce(self, identity: int | None, connection: int | None) -> None:
        """This thread is that to libvirt, and has its secrets there."""
        self._set_identity(identity)
        self._set_connection(connection)

    @contextmanager
    def writing(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            finally:
                for path in self._files.iterdir():
                    path.unlink()


_embedded: _EmbeddedDriver | None = None
_embedded_lock = threading.Lock()


def in_memory(name: str) -> Path:
    """The folder of the one that has this name: who is killed leaves it to who comes next."""
    return _MEMORY / f"kilonova-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def store(connection: Connection, folder: Path) -> Store:
    """The one that belongs to that connection; ``folder``: the driver's own."""
    return EmbeddedStore(str(folder)) if connection.is_embedded else DaemonStore(connection)


def _has(connection: Any, secret: str) -> bool:
    with translated("look for a secret"):
        try:
            connection.secretLookupByUUIDString(secret)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_SECRET:
                return False
            raise
    return True


def _document(secret: str, kind: Kind, *, ephemeral: bool) -> str:
    return to_text(
        element(
            "secret",
            element("uuid", text=secret),
            element("usage", element("name" if kind == "ceph" else "target", text=secret), type=kind),
            ephemeral="yes" if ephemeral else "no",
            private="yes",
        )
    )


def _make_own(root: Path) -> None:
    """Others may write where it is: a folder that somebody else made there is not taken."""
    with suppress(FileExistsError):
        root.mkdir(mode=0o700)
    found = root.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise BuildFailed(f"{root} is in the way: it is not ours alone")


def _pointer(connection: Any) -> int:
    """libvirt's own virConnectPtr."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return int(get(connection._o, b"virConnectPtr"))
