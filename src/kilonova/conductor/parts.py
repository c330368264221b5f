"""What every part of the conductor works with, passed to plain functions."""

from __future__ import annotations

from dataclasses import dataclass

from kilonova.bus.base import Bus
from kilonova.config import Config
from kilonova.engine.faults import FaultPoints
from kilonova.network.base import NetworkService
from kilonova.store.database import Database


@dataclass(frozen=True)
class Parts:
    """``name`` is the owner under which this conductor takes operations: unique to its process."""

    name: str
    config: Config
    db: Database
    bus: Bus
    network: NetworkService
    faults: FaultPoints
