"""What is shown at a path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple


class Page(NamedTuple):
    status: int
    content_type: str
    body: bytes


Pages = Mapping[str, Callable[[], Page]]
"""Path → what is there."""
