"""The database of the control plane, ready to be used."""

from __future__ import annotations

from contextlib import ExitStack

from sqlalchemy.exc import DatabaseError

from kilonova.cli.parts.agents import own_name
from kilonova.config import Config
from kilonova.domain.errors import Unavailable
from kilonova.engine.ticker import Ticker
from kilonova.store import flavors, hosts, migrate
from kilonova.store.database import Database


def open_database(config: Config, url: str, closing: ExitStack) -> Database:
    """With the schema of this program. Unavailable: it is there, and cannot be used."""
    db = Database(url, config.database)
    closing.callback(db.close)
    try:
        migrate.upgrade(db)
        with db.write() as conn:
            flavors.seed(conn)
    except DatabaseError as error:
        raise Unavailable(f"the database {db.engine.url} cannot be used: {error.orig}") from error
    return db


def keep_alive(config: Config, db: Database, binaries: list[str], closing: ExitStack) -> None:
    """These services show in the list of services, up while this process is."""

    def seen() -> None:
        with db.write() as conn:
            for binary in binaries:
                hosts.seen(conn, binary, own_name(config), "internal")

    seen()
    ticker = Ticker("services")
    closing.callback(ticker.close)
    ticker.every(config.compute.report_interval, seen)
