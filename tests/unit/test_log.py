"""The lines of the log."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from kilonova import log


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    before = structlog.get_config()
    written = io.StringIO()
    log.setup(written)
    yield written
    structlog.configure(**before)


TOLD: dict[str, Any] = {
    "name": "two words",
    "nothing": None,
    "ms": 1.5,
    "quoted": "it's",
    "empty": "",
    "equal": "a=b",
    "facts": {"k": 1},
    "accent": "é",
}


def test_a_line_reads_as_structlog_writes_it() -> None:
    event = {"timestamp": "2026-01-02T03:04:05Z", "level": "info", "event": "request", **TOLD}
    theirs = structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0)(None, "info", dict(event))
    assert log.line(None, "info", dict(event)) == theirs


def test_what_is_bound_is_on_the_line(out: io.StringIO) -> None:
    with log.bound(request_id="req-1"):
        log.get("api").info("request", status=200)
    assert out.getvalue().split(" ", 1)[1] == "[info     ] request part=api request_id=req-1 status=200\n"


def test_an_exception_brings_its_traceback(out: io.StringIO) -> None:
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        log.get("api").exception("failed")
    first, *others = out.getvalue().splitlines()
    assert first.endswith("[error    ] failed part=api")
    assert others[0] == "Traceback (most recent call last):"
    assert others[-1] == "ZeroDivisionError"


@pytest.mark.parametrize("value", ["a\nforged line", "\x1b[31m", "a\x7f"])
def test_no_value_writes_a_line_of_its_own(out: io.StringIO, value: str) -> None:
    log.get("api").info("request", path=value)
    assert out.getvalue().endswith(f"path={value!r}\n")
    assert len(out.getvalue().splitlines()) == 1
