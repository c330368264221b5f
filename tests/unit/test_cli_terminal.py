"""What users named and wrote does nothing to the terminal that shows it."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from kilonova.cli.parts import progress
from kilonova.cli.parts.terminal import plain
from kilonova.cli.trace import _draw

EVIL = "[/]\x1b]0;title\x07[red]"
SHOWN = "[/]�]0;title�[red]"


def console() -> Console:
    return Console(file=io.StringIO(), width=200, force_terminal=False)


def text(of: Console) -> str:
    assert isinstance(of.file, io.StringIO)
    return of.file.getvalue()


def test_a_trace_shows_names_and_details_as_they_are() -> None:
    action: dict[str, Any] = {
        "action": "create",
        "request_id": "req-1",
        "start_time": "2026-01-01T00:00:00.000000",
        "message": EVIL,
        "events": [
            {
                "event": "fetch_image",
                "host": "[/]",
                "start_time": "2026-01-01T00:00:00.000000",
                "finish_time": "2026-01-01T00:00:01.000000",
                "result": "Error",
                "details": EVIL,
            }
        ],
    }
    screen = console()
    _draw(screen, {"name": EVIL}, action)
    assert text(screen).count(SHOWN) == 3
    assert "\x1b" not in text(screen)


def test_what_is_printable_stays() -> None:
    assert plain("grün, 緑 [bold]").plain == "grün, 緑 [bold]"


def test_progress_has_ten_lines_and_says_that_there_is_more() -> None:
    rows: list[Any] = [
        SimpleNamespace(record="create", name=EVIL, host="vm", step="fetch_image", created_at=95.0)
        for _ in range(11)
    ]
    rows[1] = SimpleNamespace(record="snapshot", name=None, host=None, step=None, created_at=90.0)
    screen = console()
    screen.print(progress.table(rows, 100.0))
    lines = [" ".join(line.split()) for line in text(screen).splitlines()]
    assert lines[0] == f"create {SHOWN} fetch_image on vm 5 s"
    assert lines[1] == "snapshot waits 10 s"
    assert lines[10:] == ["… and more"]
