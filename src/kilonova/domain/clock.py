"""Time as the store and the API write it: epoch seconds (UTC, float) inside, ISO 8601 outside."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache


def now() -> float:
    """Seconds since the epoch."""
    return time.time()


def iso8601(seconds: float | None) -> str | None:
    """``2026-01-02T03:04:05Z``, the form of the compute, image and network APIs."""
    return None if seconds is None else _to_the_second(int(seconds)) + "Z"


def iso8601_micro(seconds: float | None) -> str | None:
    """``2026-01-02T03:04:05.123456``: the instance-actions API and Keystone (which adds a Z)."""
    if seconds is None:
        return None
    micros = round(seconds * 1_000_000)
    return f"{_to_the_second(micros // 1_000_000)}.{micros % 1_000_000:06d}"


@lru_cache(8192)
def _to_the_second(seconds: int) -> str:
    """Cached: the things in one list were mostly made in the same few seconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def parse(text: str) -> float:
    """Epoch seconds of an ISO 8601 time; without a zone it is UTC. ValueError if it is none."""
    stamp = datetime.fromisoformat(text)
    return (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp()
