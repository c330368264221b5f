"""The database of the control plane, ready to be used."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError

from kilonova import log
from kilonova.cli.parts.agents import own_name
from kilonova.cli.parts.stop import back_off, go_on
from kilonova.config import Config
from kilonova.domain.errors import BadRequest, Unavailable
from kilonova.engine.ticker import Ticker
from kilonova.monitoring.watch import Watch
from kilonova.store import counts, flavors, hosts, migrate, volume_types
from kilonova.store.database import Database

Say = Callable[[str], None]
_log = log.get("database")


def open_database(
    config: Config, url: str, watch: Watch, say: Say, stop: threading.Event, closing: ExitStack
) -> Database:
    """With the schema of this program, when it can be used: one that is away may take as long as it takes.

    Unavailable, BadRequest: it is there, and cannot be used. Stopped: ``stop`` was set while it was away.
    """
    db = Database(url, config.database)
    closing.callback(db.close)
    watch.health.watch("database", db.check)
    watch.gauge("database_connections", "Connections to the database.", ["state"], lambda: _connections(db))
    said, pauses = "", back_off()
    while True:
        try:
            _prepare(db)
        except Unavailable as error:
            if not db.remote:
                raise
            _log.warning("database_away", error=error.message)
            if said != error.message:
                said = error.message
                say(f"waiting for the database: {said}")
        else:
            return db
        stop.wait(next(pauses))  # nobody tells when a database is back
        go_on(stop)


def _prepare(db: Database) -> None:
    """One try."""
    db.reach()
    try:
        migrate.upgrade(db)
        with db.write() as conn:
            flavors.seed(conn)
            volume_types.seed(conn)
    except DatabaseError as error:
        raise BadRequest(f"the database {db.engine.url} cannot be used: {error.orig}") from error


def count_work(config: Config, db: Database, watch: Watch) -> None:
    """What waits and who is there: the same whichever process tells it, so only conductors do."""

    def read(count: Callable[[sa.Connection], dict[str, int]]) -> dict[tuple[str, ...], float]:
        with db.read() as conn:
            return {(name,): number for name, number in count(conn).items()}

    down_time = config.compute.service_down_time
    watch.gauge("operations_open", "Under way.", ["kind"], lambda: read(counts.open_operations))
    watch.gauge(
        "hosts", "Compute hosts.", ["state"], lambda: read(partial(counts.hosts, down_time=down_time))
    )


def _connections(db: Database) -> dict[tuple[str, ...], float]:
    in_use, idle = db.connections()
    return {("in_use",): in_use, ("idle",): idle}


def keep_alive(config: Config, db: Database, binaries: list[str], closing: ExitStack) -> None:
    """These services show in the list of services, up while this process is: as soon as it can be written."""

    def seen() -> None:
        with db.write() as conn:
            for binary in binaries:
                hosts.seen(conn, binary, own_name(config), "internal")

    try:
        seen()
    except Unavailable as error:
        _log.warning("not_seen", error=error.message)
    ticker = Ticker("services")
    closing.callback(ticker.close)
    ticker.every(config.compute.report_interval, seen)
