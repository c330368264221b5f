"""Time as the store and the API write it: epoch seconds (UTC, float) inside, ISO 8601 outside."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now() -> float:
    """Seconds since the epoch."""
    return time.time()


def iso8601(seconds: float | None) -> str | None:
    """``2026-01-02T03:04:05Z``, the form of the compute, image and network APIs."""
    if seconds is None:
        return None
    # isoformat() takes a quarter of the time of strftime(); lists are full of times.
    return datetime.fromtimestamp(int(seconds), UTC).isoformat()[:19] + "Z"


def iso8601_micro(seconds: float | None) -> str | None:
    """``2026-01-02T03:04:05.123456``: the instance-actions API and Keystone (which adds a Z)."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")[:26]


def parse(text: str) -> float:
    """Epoch seconds of an ISO 8601 time; without a zone it is UTC. ValueError if it is none."""
    stamp = datetime.fromisoformat(text)
    return (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp()
