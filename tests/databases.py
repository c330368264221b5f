"""Fresh databases for tests, fast: each is a copy of a template that was filled once."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import psycopg
import sqlalchemy as sa
from tests.postgresql import PostgreSQL

from kilonova.store.database import Database

Fill = Callable[[Database], None]


def no_rows(_db: Database) -> None:
    """Only the tables."""


class Server(Protocol):
    """Where databases are; all of them are named by URLs."""

    def make(self) -> str: ...

    def copy(self, template: str) -> str: ...

    def drop(self, url: str) -> None: ...


class Databases:
    """Of one kind, in one session of tests."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._templates: dict[Fill, str] = {}

    def empty(self) -> str:
        """Not even tables."""
        return self._server.make()

    def filled(self, fill: Fill = no_rows) -> str:
        """With all tables, and what ``fill`` wrote."""
        if fill not in self._templates:
            url = self._server.make()
            db = Database(url)
            db.create()
            fill(db)
            db.close()
            self._templates[fill] = url
        return self._server.copy(self._templates[fill])

    def drop(self, url: str) -> None:
        self._server.drop(url)


class Files:
    """SQLite's."""

    def __init__(self, folder: Path) -> None:
        self._names = (folder / f"{number}.db" for number in itertools.count())

    def make(self) -> str:
        return f"sqlite:///{next(self._names)}"

    def copy(self, template: str) -> str:
        url = self.make()
        shutil.copy(_path(template), _path(url))
        return url

    def drop(self, url: str) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{_path(url)}{suffix}").unlink(missing_ok=True)


class Catalog:
    """Those of a PostgreSQL server."""

    def __init__(self, server: PostgreSQL) -> None:
        self._server = server
        self._names = (f"test_{number}" for number in itertools.count())
        self._connection = psycopg.connect(f"host={server.folder} user=kilonova dbname=postgres")
        self._connection.autocommit = True

    def make(self) -> str:
        return self._create("template1")

    def copy(self, template: str) -> str:
        return self._create(str(sa.make_url(template).database))

    def drop(self, url: str) -> None:
        self._connection.execute(f'DROP DATABASE "{sa.make_url(url).database}" WITH (FORCE)')

    def close(self) -> None:
        self._connection.close()

    def _create(self, template: str) -> str:
        name = next(self._names)
        self._connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self._server.url(name)


def connect(url: str) -> Any:
    """A plain connection to a database, of its own driver; ``execute`` and ``with`` are the same of both."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(_path(url))
        connection.row_factory = sqlite3.Row
        return connection
    plain = sa.make_url(url).set(drivername="postgresql")
    return psycopg.connect(plain.render_as_string(hide_password=False))


def _path(url: str) -> str:
    return str(sa.make_url(url).database)
