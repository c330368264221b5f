"""What every part of an agent works with, passed to plain functions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from kilonova.bus.base import Bus
from kilonova.compute.word import Word
from kilonova.config import Config
from kilonova.engine.faults import FaultPoints
from kilonova.image.base import ImageSink
from kilonova.network.base import HostNetwork
from kilonova.virt.base import Driver

Reply = TypeVar("Reply")

_CALL_TIMEOUT = 15.0
"""Seconds that a conductor has for one answer; it needs milliseconds."""


@dataclass(frozen=True)
class Parts:
    host: str
    config: Config
    bus: Bus
    driver: Driver
    network: HostNetwork
    faults: FaultPoints
    volumes_changed: Word = field(default_factory=Word)
    """Said when something that was done to a volume ended."""
    images: ImageSink | None = None
    """Where to what it takes of servers goes; None: it has no way there."""

    def ask(self, method: str, message: msgspec.Struct, reply: type[Reply]) -> Reply:
        """A call to the conductor. Unavailable, Timeout: perhaps it was done, perhaps not."""
        return self.bus.call("conductor", method, message, reply, timeout=_CALL_TIMEOUT)
