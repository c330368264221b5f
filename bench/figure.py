"""A figure: what was measured, beside what was promised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """``at_most`` / ``at_least``: the promise, in ``unit``."""

    name: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""
    nova: str = ""
    """Nova's own on a machine like this, in the same unit, where it was measured."""

    @property
    def kept(self) -> bool:
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )


Measure = Callable[[], list[Figure]]
