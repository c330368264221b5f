"""A connection to a Ceph cluster: made when it is first needed, shared by all threads, bounded in time."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kilonova.domain.errors import NotFound, Unavailable
from kilonova.rbd import bindings
from kilonova.rbd.closing import Closing
from kilonova.rbd.pool import Pool


class Cluster:
    """As ``client.<user>`` of ``conf``, which says where the monitors and the keyring are.

    Whatever it is asked, it answers or raises Unavailable: where an OSD or a monitor does not answer, after
    about ``timeout`` seconds a step. It goes on by itself when they are back.
    """

    def __init__(self, conf: Path, user: str, *, timeout: int = 30) -> None:
        self.conf = conf
        self.user = user
        self.timeout = timeout
        self.closing = Closing(within=3 * timeout)
        self._lock = threading.Lock()
        self._connecting = threading.Lock()
        self._failures = 0
        self._problem = ""
        """Of the last attempt to connect."""
        self._connection: bindings.Connection | None = None
        self._pools: dict[str, Pool] = {}

    @property
    def fsid(self) -> str:
        with self.translated("fsid"):
            return self.connection().get_fsid()

    @property
    def monitors(self) -> list[str]:
        """``address:port``, for whoever has no ceph.conf."""
        answer = self.command("mon dump")
        return [_address(mon["public_addrs"]["addrvec"]) for mon in answer["mons"]]

    def pool(self, name: str) -> Pool:
        with self._lock:
            return self._pools.setdefault(name, Pool(self, name))

    def check(self) -> None:
        """Unavailable, saying why, if it cannot be worked with now."""
        _ = self.fsid

    def command(self, name: str, **arguments: str) -> Any:
        """What the monitors answer."""
        with self.translated(name):
            words = json.dumps({"prefix": name, "format": "json", **arguments})
            status, answer, said = self.connection().mon_command(words, b"")
        if status != 0:
            raise Unavailable(f"Ceph does not answer {name!r}: {said or status}")
        return json.loads(answer)

    def connection(self) -> bindings.Connection:
        """For this package. Of several that ask at once one connects: if it cannot, the others do not try."""
        seen = self._failures
        with self._connecting:
            if self._connection is not None:
                return self._connection
            if self._failures != seen:  # while we waited
                raise Unavailable(self._problem)
            try:
                self._connection = self._connect()
            except Unavailable as error:
                self._failures, self._problem = self._failures + 1, error.message
                raise
            return self._connection

    @contextmanager
    def translated(self, what: str) -> Iterator[None]:
        """As bindings.translated; a connection that is locked out is left, who asks next makes another."""
        used = self._connection
        try:
            with bindings.translated(what):
                yield
        except bindings.Fenced:
            self._leave(used)
            raise

    def _leave(self, used: bindings.Connection | None) -> None:
        """Who still has something open on it lets go of it by itself."""
        with self._connecting, self._lock:
            if self._connection is used:
                self._connection = None
                for pool in self._pools.values():
                    pool.forget()

    def close(self) -> None:
        with self._connecting, self._lock:
            pools, self._pools = self._pools, {}
            for pool in pools.values():
                pool.close()
            if self._connection is not None and not self.closing.waits:
                self._connection.shutdown()
            self._connection = None

    @contextmanager
    def apart(self, pool: str) -> Iterator[bindings.Io]:
        """A pool by a connection of its own, in the block. Some work of librbd 16 waits, in the thread that
        answers come to, for an answer: it needs more than one of those."""
        with bindings.translated(f"pool {pool}"):
            made = self._connect(threads=2)
            try:
                io = made.open_ioctx(pool)
                try:
                    yield io
                finally:
                    io.close()
            finally:
                if not self.closing.waits:
                    made.shutdown()

    def _connect(self, threads: int = 1) -> bindings.Connection:
        seconds = str(self.timeout)
        settings = {
            "client_mount_timeout": seconds,
            "rados_mon_op_timeout": seconds,
            "rados_osd_op_timeout": seconds,
            # A snapshot with clones can be deleted, and needs no protection.
            "rbd_default_clone_format": "2",
            # What was written is written: nothing is left to be flushed to an OSD that does not answer.
            "rbd_cache": "false",
            # librbd 16 tells who waits that an image, or the parent of one, is open, and only then takes a
            # lock in it. If it was closed by then, that lock is no more, and the process dies. With one
            # thread for all such work, who waits is told after that.
            "librados_thread_count": str(threads),
        }
        try:
            with bindings.translated(f"Ceph ({self.conf}, client.{self.user})"):
                return _connected(bindings.connection(str(self.conf), f"client.{self.user}", settings))
        except NotFound as error:
            raise Unavailable(error.message) from error


def _connected(made: bindings.Connection) -> bindings.Connection:
    try:
        made.connect()  # client_mount_timeout bounds it
    except BaseException:
        made.shutdown()
        raise
    return made


def _address(known: list[dict[str, str]]) -> str:
    """The address that every client understands: that of the first protocol, if it is spoken."""
    by_kind = {one["type"]: one["addr"] for one in known}
    return by_kind.get("v1") or known[0]["addr"]
