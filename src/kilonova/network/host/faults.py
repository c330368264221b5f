"""Which of many parts is what a whole is refused for: found by halves, so that it alone is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

P = TypeVar("P")


def find(parts: Sequence[P], loads: Callable[[Sequence[P]], str | None]) -> dict[P, str]:
    """Those of these parts that ``loads`` tells a reason against, each with it."""
    reason = loads(parts) if parts else None
    if reason is None:
        return {}
    if len(parts) == 1:
        return {parts[0]: reason}
    middle = len(parts) // 2
    return find(parts[:middle], loads) | find(parts[middle:], loads)
