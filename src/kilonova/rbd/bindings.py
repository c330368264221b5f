"""Ceph's Python bindings, and as much of their types as is used here: they have none of their own.

They come with the distribution (python3-rados, python3-rbd; tools/link-ceph puts them into the environment),
so they are asked for only where Ceph is configured.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Protocol

from kilonova.domain.errors import Conflict, KilonovaError, NotFound, TooLarge, Unavailable, VolumeFailed

LAYERING, EXCLUSIVE_LOCK, OBJECT_MAP, FAST_DIFF, DEEP_FLATTEN = 1, 4, 8, 16, 32
FEATURES = LAYERING | EXCLUSIVE_LOCK | OBJECT_MAP | FAST_DIFF | DEEP_FLATTEN
"""Of new images: what ``rbd create`` gives them."""


class Io(Protocol):
    """rados.Ioctx: a pool."""

    def close(self) -> None: ...
    def set_osdmap_full_try(self) -> None: ...


class Connection(Protocol):
    """rados.Rados."""

    def connect(self) -> None: ...
    def conf_get(self, option: str) -> str | None: ...
    def shutdown(self) -> None: ...
    def get_fsid(self) -> str: ...
    def open_ioctx(self, name: str) -> Io: ...
    def mon_command(self, command: str, data: bytes) -> tuple[int, bytes, str]: ...


class RawImage(Protocol):
    """rbd.Image."""

    def __enter__(self) -> RawImage: ...
    def __exit__(self, *_: object) -> None: ...
    def close(self) -> None: ...
    def size(self) -> int: ...
    def resize(self, size: int) -> None: ...
    def read(self, offset: int, length: int) -> bytes: ...
    def write(self, data: bytes, offset: int) -> int: ...
    def flush(self) -> None: ...
    def create_snap(self, name: str) -> None: ...
    def protect_snap(self, name: str) -> None: ...
    def unprotect_snap(self, name: str) -> None: ...
    def is_protected_snap(self, name: str) -> bool: ...
    def remove_snap(self, name: str) -> None: ...
    def list_snaps(self) -> Iterable[dict[str, Any]]: ...
    def id(self) -> str: ...
    def get_parent_image_spec(self) -> dict[str, Any]: ...
    def parent_id(self) -> str: ...
    def watchers_list(self) -> Iterable[dict[str, Any]]: ...
    def metadata_get(self, key: str) -> str: ...
    def diff_iterate(
        self,
        offset: int,
        length: int,
        from_snapshot: str | None,
        iterate_cb: Callable[[int, int, bool], None],
        include_parent: bool,
        whole_object: bool,
    ) -> None: ...
    def rollback_to_snap(self, name: str) -> None: ...
    def metadata_remove(self, key: str) -> None: ...
    def metadata_set(self, key: str, value: str) -> None: ...


class Rbd(Protocol):
    """rbd.RBD."""

    def create(self, io: Io, name: str, size: int, *, old_format: bool, features: int) -> None: ...
    def clone(self, io: Io, image: str, snap: str, to: Io, name: str, *, features: int) -> None: ...
    def remove(self, io: Io, name: str) -> None: ...
    def list(self, io: Io) -> list[str]: ...
    def trash_move(self, io: Io, name: str, delay: int) -> None: ...
    def trash_list(self, io: Io) -> Iterable[dict[str, Any]]: ...
    def trash_remove(self, io: Io, image_id: str, force: bool) -> None: ...


def check() -> None:
    """Unavailable, saying what to install, where the bindings are not."""
    _module("rados")
    _module("rbd")


def connection(conf: str, client: str, settings: dict[str, str]) -> Connection:
    made: Connection = _module("rados").Rados(conffile=conf, name=client, conf=settings)
    return made


def rbd() -> Rbd:
    made: Rbd = _module("rbd").RBD()
    return made


def image(io: Io, name: str | None, **options: Any) -> RawImage:
    """Open it; ``image_id``, ``snapshot``, ``read_only``."""
    opened: RawImage = _module("rbd").Image(io, name, **options)
    return opened


class Fenced(Unavailable):
    """This connection is no more, and never will be: Ceph has locked it out, as it does with a client that
    seemed dead. Another one may work."""


class Closed(Unavailable):
    """The user has no right to that."""


@contextmanager
def translated(what: str) -> Iterator[None]:
    """What goes wrong in the block is of the one tree: NotFound, Conflict (it exists, is in use, has
    snapshots), TooLarge (full), Unavailable (no answer, not let in), else VolumeFailed. ``what`` begins
    the message.
    """
    kinds = (_module("rbd").Error, _module("rados").Error)
    try:
        yield
    except kinds as error:
        raise _known(error, what) from error


_KINDS: dict[int, type[KilonovaError]] = {
    errno.ENOENT: NotFound,
    errno.EEXIST: Conflict,
    errno.EBUSY: Conflict,
    errno.ENOTEMPTY: Conflict,
    errno.ENOSPC: TooLarge,
    errno.EDQUOT: TooLarge,
    errno.ETIMEDOUT: Unavailable,
    errno.ESHUTDOWN: Fenced,
    errno.ENOTCONN: Fenced,
    errno.EAGAIN: Unavailable,
    errno.EACCES: Closed,
    errno.EPERM: Closed,
}


def _known(error: Exception, what: str) -> KilonovaError:
    number = getattr(error, "errno", None)
    number = abs(number) if isinstance(number, int) else 0
    if number == 0:
        # What the bindings say without a number is about a connection that is no more.
        return Unavailable(f"{what}: Ceph: {type(error).__name__}")
    kind, said = _KINDS.get(number, VolumeFailed), str(errno.errorcode.get(number, number))
    return kind(f"{what}: Ceph: {f'the pool is full ({said})' if kind is TooLarge else said}")


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise Unavailable(
            f"Ceph cannot be used here: this Python has no module {name} (python3-{name} of the distribution,"
            " which fits the distribution's own Python; then make install)"
        ) from error
