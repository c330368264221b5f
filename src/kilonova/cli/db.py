"""`kilonova db`: the database's schema, and what it need not hold any longer."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import click

from kilonova.config import load
from kilonova.domain.clock import now
from kilonova.domain.errors import KilonovaError
from kilonova.store import migrate
from kilonova.store import purge as rows
from kilonova.store.database import Database
from kilonova.store.migrations import HEAD


@click.group(short_help="Look at the database's schema, bring it up to date; forget what was deleted.")
def db() -> None:
    """The database. `kilonova up` brings its schema up to date when it starts."""


_where = [
    click.option("--state", type=click.Path(path_type=Path), help="State folder of `kilonova up`."),
    click.option(
        "--config",
        "config_file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="TOML file, whose [database] says where it is.",
    ),
]


@contextmanager
def opened(state: Path | None, config_file: Path | None) -> Iterator[Database]:
    """The database, to work with. ClickException says what went wrong with it."""
    try:
        with closing(_database(state, config_file)) as found:
            yield found
    except KilonovaError as error:
        why = f" {error.details}" if error.details else ""
        raise click.ClickException(f"{error.message}{why}") from error


def _database(state: Path | None, config_file: Path | None) -> Database:
    options = load(config_file).database
    if options.connection:
        return Database(options.connection, options)
    if state is None:
        raise click.UsageError("give --state, or a --config with [database] connection")
    path = state.absolute() / "kilonova.db"
    if not path.exists():
        raise click.ClickException(f"there is no database in {state}")
    return Database(f"sqlite:///{path}", options)


@db.command(short_help="Print the database's revision, and the one needed.")
@_where[0]
@_where[1]
def current(state: Path | None, config_file: Path | None) -> None:
    """Print the revision of the database, and the one that this program needs."""
    with opened(state, config_file) as found:
        print(f"{migrate.current(found) or 'empty'} (this program needs {HEAD})")


@db.command()
@_where[0]
@_where[1]
def upgrade(state: Path | None, config_file: Path | None) -> None:
    """Bring the database to the revision that this program needs."""
    with opened(state, config_file) as found:
        migrate.upgrade(found)
        print(f"at {migrate.current(found)}")


@db.command(short_help="Forget deleted servers and deleted images.")
@_where[0]
@_where[1]
@click.option(
    "--older-than",
    type=click.IntRange(min=0),
    required=True,
    metavar="DAYS",
    help="What was deleted more than so many days ago; 0: all that is deleted.",
)
def purge(state: Path | None, config_file: Path | None, older_than: int) -> None:
    """Forget deleted servers, with the record of what was done to them, and deleted images.

    The services may run. They do this by themselves after `[database] keep_deleted_days`.
    """
    before = now() - older_than * 86400
    servers = images = 0
    with opened(state, config_file) as found:
        while True:
            batch = rows.purge(found, before)
            servers, images = servers + batch[0], images + batch[1]
            if rows.BATCH not in batch:
                break
    print(f"{servers} servers and {images} images were forgotten")


@db.command(short_help="For developers: write a new revision.")
@click.argument("message")
@click.option("--id", "revision_id", required=True, help="Its id: the next number, such as 0002.")
def revision(message: str, revision_id: str) -> None:
    """For developers: write a new revision from what the tables have and the revisions do not."""
    with tempfile.TemporaryDirectory() as folder:
        empty = Database(f"sqlite:///{folder}/empty.db")
        if revision_id != HEAD:
            migrate.upgrade(empty)
        migrate.write_revision(empty, message, revision_id)
        empty.close()
