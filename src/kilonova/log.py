"""Structured logs: one event a line; the request id, server and operation are bound per thread."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

bound = structlog.contextvars.bound_contextvars
"""``with bound(request_id=…, server=…):`` puts these on every line logged inside."""


def current() -> dict[str, Any]:
    return structlog.contextvars.get_contextvars()


def setup(stream: TextIO | None = None, level: str = "info", as_json: bool = False) -> None:
    """Log to ``stream`` (stderr by default), as JSON or for people."""
    out = stream or sys.stderr
    renderer: Any = line
    if as_json:
        renderer = structlog.processors.JSONRenderer()
    elif out.isatty():
        renderer = structlog.dev.ConsoleRenderer(pad_event_to=0)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=True,
    )


_PLAIN = re.compile(r"""[^\x00-\x20\x7f='"]*""")


def line(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    """``TIME [level    ] event key=value …``, sorted by key: what structlog's ConsoleRenderer writes without
    colours, at a third of its price. Every request writes one."""
    words = [f"{event.pop('timestamp')} [{event.pop('level'):<9}] {event.pop('event')}"]
    exception = event.pop("exception", None)
    for key in sorted(event):
        value = event[key]
        plain = isinstance(value, str) and _PLAIN.fullmatch(value)
        words.append(f"{key}={value if plain else repr(value)}")
    text = " ".join(words)
    return text if exception is None else f"{text}\n{exception}"


def get(name: str) -> Any:
    return structlog.get_logger(part=name)


# Until a command calls setup(): what matters, on stderr, so that stdout belongs to whoever embeds us.
structlog.configure(
    wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
    logger_factory=lambda *_: structlog.WriteLogger(sys.stderr),
)
