"""Structured logs: one event a line; the request id, server and operation are bound per thread."""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

import structlog

bound = structlog.contextvars.bound_contextvars
"""``with bound(request_id=…, server=…):`` puts these on every line logged inside."""


def current() -> dict[str, Any]:
    return structlog.contextvars.get_contextvars()


def setup(stream: TextIO | None = None, level: str = "info", as_json: bool = False) -> None:
    """Log to ``stream`` (stderr by default), as JSON or for people."""
    out = stream or sys.stderr
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=out.isatty(), pad_event_to=0)
    )
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


def get(name: str) -> Any:
    return structlog.get_logger(part=name)


# Until a command calls setup(): what matters, on stderr, so that stdout belongs to whoever embeds us.
structlog.configure(
    wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
    logger_factory=lambda *_: structlog.WriteLogger(sys.stderr),
)
