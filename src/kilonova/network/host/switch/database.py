"""The switch's database (OVSDB): a replica of the little that we use, kept by a thread, and transactions.

ovsdbapp's connection and transaction over the replica of the ``ovs`` library: no eventlet. A server that goes
away is looked for again and again, at most two seconds apart.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from ovs.db import idl
from ovsdbapp.backend.ovs_idl import connection, transaction
from ovsdbapp.exceptions import OvsdbAppException

from kilonova.domain.errors import BuildFailed, Unavailable

T = TypeVar("T")

Row = Any
"""A row of the replica; its columns are attributes."""

_TIMEOUT = 10.0
_PATIENCE = 3.0
"""Seconds that a change waits for a server that is away: longer than between two attempts to connect."""

_BACKOFF = (250, 2000)
"""Milliseconds between two attempts to connect: at first, and at most."""

_WORDS = {"key": "string", "value": "string", "min": 0, "max": "unlimited"}


def _references(table: str) -> dict[str, Any]:
    return {"key": {"type": "uuid", "refTable": table}, "min": 0, "max": "unlimited"}


def _optional(kind: str) -> dict[str, Any]:
    return {"key": kind, "min": 0, "max": 1}


_SCHEMA: dict[str, dict[str, Any]] = {
    "Open_vSwitch": {
        "bridges": _references("Bridge"),
        "other_config": _WORDS,
        "external_ids": _WORDS,
        "next_cfg": "integer",
        "cur_cfg": "integer",
    },
    "Bridge": {
        "name": "string",
        "ports": _references("Port"),
        "datapath_type": "string",
        "fail_mode": _optional("string"),
        "external_ids": _WORDS,
    },
    "Port": {
        "name": "string",
        "interfaces": _references("Interface"),
        "tag": _optional("integer"),
        "trunks": {"key": "integer", "min": 0, "max": "unlimited"},
        "vlan_mode": _optional("string"),
        "external_ids": _WORDS,
    },
    "Interface": {
        "name": "string",
        "type": "string",
        "ofport": _optional("integer"),
        "error": _optional("string"),
        "external_ids": _WORDS,
    },
}
"""The tables and columns that we use, with their types (ovs-vswitchd.conf.db(5))."""


class Database:
    """Connects when it is first asked. Thread-safe. Unavailable: it does not answer."""

    def __init__(self, path: Path) -> None:
        self._socket = path
        self._remote = f"unix:{path}"
        self._lock = threading.Lock()
        self._connection: Any = None
        self._news = threading.Condition()
        self._changes = 0
        self._tell_changed: Callable[[], None] = lambda: None

    def look(self, at: Callable[[Tables], T]) -> T:
        """What ``at`` sees of the replica, which stands still meanwhile."""
        connected = self._connected()
        with connected.lock:
            return at(Tables(connected.idl))

    def change(self, act: Callable[[Change], T]) -> T:
        """One transaction: ``act`` looks and changes; done again if what it looked at changed meanwhile.

        BuildFailed: the database refuses it. Unavailable: it does not answer; whether it was done is open.
        """
        connected = self._connected()
        timeout = _TIMEOUT if connected.idl._session.is_connected() else _PATIENCE
        wanted = transaction.Transaction(
            _Api(connected), connected, timeout=timeout, check_error=True, log_errors=False
        )
        command = wanted.add(_Command(connected.idl, act))
        try:
            wanted.commit()
        except (OvsdbAppException, TimeoutError) as error:
            raise Unavailable(f"Open vSwitch's database at {self._remote} does not answer") from error
        except RuntimeError as error:
            raise BuildFailed(f"Open vSwitch's database: {error}") from error
        told: T = command.told
        return told

    def wait(self, done: Callable[[Tables], T | None], seconds: float = _TIMEOUT) -> T | None:
        """What ``done`` sees as soon as it sees something; None if it does not within the time."""
        deadline = time.monotonic() + seconds
        while True:
            with self._news:
                known = self._changes
            seen = self.look(done)
            if seen is not None:
                return seen
            with self._news:
                left = deadline - time.monotonic()
                if not self._news.wait_for(lambda: self._changes != known, max(0.0, left)):  # noqa: B023
                    return None

    def changes(self) -> int:
        """A number that grows with everything that changes in the replica."""
        return self._changes

    def on_change(self, tell: Callable[[], None]) -> None:
        """``tell()`` is called, in another thread, with each of them. It must be quick."""
        self._tell_changed = tell

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.stop()
            self._connection = None

    def _connected(self) -> Any:
        with self._lock:
            if self._connection is None:
                self._connection = self._connect()
            return self._connection

    def _connect(self) -> Any:
        if not accepts(self._socket):
            raise Unavailable(f"Open vSwitch's database at {self._remote} does not answer")
        tables = {
            name: {"columns": {column: {"type": kind} for column, kind in columns.items()}}
            for name, columns in _SCHEMA.items()
        }
        helper = idl.SchemaHelper(None, {"name": "Open_vSwitch", "version": "8.0.0", "tables": tables})
        helper.register_all()
        replica = _Replica(self._remote, helper, self._tell)
        replica._session.reconnect.set_backoff(*_BACKOFF)
        made = connection.Connection(replica, _TIMEOUT)
        try:
            made.start()
        except Exception as error:
            replica.close()
            raise Unavailable(f"Open vSwitch's database at {self._remote} does not answer") from error
        made.thread.name = "ovsdb"
        return made

    def _tell(self) -> None:
        with self._news:
            self._changes += 1
            self._news.notify_all()
        self._tell_changed()


def accepts(path: Path) -> bool:
    """Whether somebody listens on that socket (one that a killed process left is there all the same)."""
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(_PATIENCE)
        try:
            one.connect(str(path))
        except OSError:
            return False
    return True


class Tables:
    """The replica at one moment."""

    def __init__(self, replica: Any) -> None:
        self._tables = replica.tables
        self.version = int(replica.change_seqno)
        """As long as it is the same, so is all else."""

    def all(self, table: str) -> Iterable[Row]:
        return list(self._tables[table].rows.values())

    def named(self, table: str, name: str) -> Row | None:
        return next((row for row in self.all(table) if row.name == name), None)

    @property
    def root(self) -> Row:
        """The one row of the table Open_vSwitch."""
        rows = list(self._tables["Open_vSwitch"].rows.values())
        if not rows:
            raise Unavailable("Open vSwitch's database is empty: ovs-vsctl init")
        return rows[0]


class Change(Tables):
    """A transaction: what is read of rows is as it was before it."""

    def __init__(self, replica: Any, running: Any) -> None:
        super().__init__(replica)
        self._running = running

    def insert(self, table: str, **columns: Any) -> Row:
        row = self._running.insert(self._tables[table])
        for column, value in columns.items():
            setattr(row, column, value)
        return row


class _Replica(connection.OvsdbIdl):  # type: ignore[misc]
    def __init__(self, remote: str, helper: Any, tell: Callable[[], None]) -> None:
        super().__init__(remote, helper)
        self._tell = tell

    def notify(self, event: str, row: Row, updates: Row | None = None) -> None:
        self._tell()


class _Api:
    """What a transaction of ovsdbapp wants to know."""

    def __init__(self, connected: Any) -> None:
        self.idl = connected.idl
        self.ovsdb_connection = connected


class _Command:
    """What a transaction of ovsdbapp is made of: here always one."""

    def __init__(self, replica: Any, act: Callable[[Change], Any]) -> None:
        self._replica = replica
        self._act = act
        self.told: Any = None
        self.result: Any = None

    def run_idl(self, running: Any) -> None:
        self.told = self._act(Change(self._replica, running))

    def post_commit(self, running: Any) -> None:
        """Nothing waits for the switch here: see Database.wait()."""
