"""`kilonova trace SERVER`: what was done to a server, as a waterfall with the time of every step."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kilonova.cli.client import Client, credentials
from kilonova.cli.parts.terminal import plain
from kilonova.domain.clock import parse

_BAR = 40
"""Columns of the waterfall."""

_WIDTH = 120
"""Columns of the whole where there is no terminal to ask."""


@click.command(short_help="Show what was done to a server, step by step.")
@click.argument("server")
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    help="State folder of `kilonova up`, for its credentials; else the OS_* variables are used.",
)
@click.option("--all", "everything", is_flag=True, help="Every action, not only the creation.")
def trace(server: str, state: Path | None, everything: bool) -> None:
    """Draw the journal of SERVER (name or id): each step, when it began, how long it took, how it ended."""
    client = Client(credentials(state))
    found = client.server(server)
    actions = client.get(f"/servers/{found['id']}/os-instance-actions")["instanceActions"]
    actions.reverse()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    for action in actions:
        if everything or action["action"] == "create":
            path = f"/servers/{found['id']}/os-instance-actions/{action['request_id']}"
            _draw(console, found, client.get(path)["instanceAction"])


def _draw(console: Console, server: Any, action: Any) -> None:
    events = sorted(action["events"], key=lambda event: (event["start_time"], event["event"]))
    start = parse(action["start_time"])
    ends = [parse(event["finish_time"]) for event in events if event["finish_time"]]
    total = max([*ends, start]) - start
    console.print(
        Text(action["action"], "bold"), plain(server["name"]), "", action["request_id"], soft_wrap=True
    )
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title, justify in (("step", "left"), ("host", "left"), ("from", "right"), ("took", "right")):
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("", no_wrap=True, min_width=_BAR)
    table.add_column("", overflow="fold")
    for event in events:
        begun = parse(event["start_time"]) - start
        took = parse(event["finish_time"]) - start - begun if event["finish_time"] else None
        ok = event["result"] == "Success"
        table.add_row(
            event["event"],
            plain(event.get("host") or ""),
            _milliseconds(begun),
            _milliseconds(took),
            _bar(begun, took, total, "green" if ok else "red"),
            plain(event.get("details") or ("" if ok else event["result"] or "still running")),
        )
    table.add_row("total", "", "", _milliseconds(total), "", plain(action["message"] or ""), style="bold")
    console.print(table)


def _bar(begun: float, took: float | None, total: float, colour: str) -> Text:
    scale = _BAR / total if total else 0
    left = min(int(begun * scale), _BAR - 1)
    width = max(1, round((total - begun if took is None else took) * scale))
    return Text(" " * left + "━" * min(width, _BAR - left), style=colour)


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:,.0f} ms"
