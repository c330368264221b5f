"""What becomes of a message: drawn by chance, the same for the same seed, service and count of messages."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import NamedTuple


class Fate(NamedTuple):
    """``kind`` empty: nothing happens to it. ``seconds``: how long it is delayed."""

    kind: str = ""
    seconds: float = 0.0


LUCKY = Fate()


@dataclass(frozen=True)
class Rates:
    """Shares (0..1) of all messages, in each of the two directions."""

    drop: float = 0.005
    duplicate: float = 0.02
    delay: float = 0.02
    reorder: float = 0.02
    longest_delay: float = 3.0
    """Seconds."""


class Fates:
    """For all proxies. ``calm()``: from now on nothing happens."""

    def __init__(self, seed: str, rates: Rates) -> None:
        self.counts: Counter[str] = Counter()
        self._seed = seed
        self._rates = rates
        self._lock = threading.Lock()
        self._calm = False

    def of(self, stream: str) -> Stream:
        """The messages of one direction of one connection."""
        return Stream(self, Random(f"{self._seed}/{stream}"))

    def calm(self) -> None:
        self._calm = True

    def stir(self) -> None:
        """After calm(): as before it."""
        self._calm = False

    def draw(self, random: Random) -> Fate:
        rates = self._rates
        drawn, seconds = random.random(), random.uniform(0.05, rates.longest_delay)
        if self._calm:
            return LUCKY
        fate = LUCKY
        for kind in ("drop", "duplicate", "delay", "reorder"):
            drawn -= getattr(rates, kind)
            if drawn < 0:
                fate = Fate(kind, seconds)
                break
        with self._lock:
            self.counts[fate.kind or "left alone"] += 1
        return fate


class Stream:
    def __init__(self, fates: Fates, random: Random) -> None:
        self._fates = fates
        self._random = random

    def next(self) -> Fate:
        return self._fates.draw(self._random)
