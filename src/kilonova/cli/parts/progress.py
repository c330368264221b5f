"""The progress of long work on the terminal that `kilonova up` was started in: what has been going on for
more than a second, and at which step it is. Nothing is shown where the output goes elsewhere.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table

from kilonova.cli.parts.terminal import plain
from kilonova.domain.clock import now
from kilonova.domain.errors import KilonovaError
from kilonova.store import operation_lists
from kilonova.store.database import Database, Row

_LONG = 1.0
"""Seconds after which work is shown, and between two looks: people read no faster."""
_MOST = 10
"""Lines."""


@contextmanager
def shown(db: Database) -> Iterator[None]:
    """While it lasts, if standard error is a terminal. Lines that are printed meanwhile stay above it."""
    if not sys.stderr.isatty():
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_show, args=(db, over), name="progress")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _show(db: Database, over: threading.Event) -> None:
    screen = Console(stderr=True)
    both = sys.stdout.isatty()
    with Live(console=screen, auto_refresh=False, transient=True, redirect_stdout=both) as live:
        is_empty = True
        while not over.wait(_LONG):
            rows = _going_on(db)
            if rows or not is_empty:
                live.update(table(rows, now()), refresh=True)
            is_empty = not rows


def _going_on(db: Database) -> Sequence[Row]:
    try:
        with db.read() as conn:
            return operation_lists.going_on(conn, now() - _LONG, _MOST + 1)
    except KilonovaError:
        return []  # the log tells of a database that is away


def table(rows: Sequence[Row], at: float) -> Table:
    """A line for each of the first ten, and how long it has taken."""
    lines = Table.grid(padding=(0, 2))
    for row in rows[:_MOST]:
        place = f"{row.step or 'waits'}{f' on {row.host}' if row.host else ''}"
        took = f"{at - row.created_at:.0f} s"
        lines.add_row(row.record, plain(row.name or ""), plain(place), took, style="dim")
    if len(rows) > _MOST:
        lines.add_row("… and more", style="dim")
    return lines
