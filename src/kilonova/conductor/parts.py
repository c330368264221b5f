"""What every part of the conductor works with, passed to plain functions."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kilonova.bus.base import Bus
from kilonova.conductor.hearing import Hearing
from kilonova.config import Config
from kilonova.engine.faults import FaultPoints
from kilonova.network.base import NetworkService
from kilonova.store.database import Database
from kilonova.volume.base import VolumeService


@dataclass(frozen=True)
class Parts:
    """``name`` is the owner under which this conductor takes operations: unique to its process."""

    name: str
    config: Config
    db: Database
    bus: Bus
    network: NetworkService
    volumes: VolumeService
    faults: FaultPoints
    hearing: Hearing | None = None
    """None: every host could always be heard."""

    @property
    def silence(self) -> float:
        """Seconds after which a silent host is taken for dead; infinite while it may have had no chance."""
        heard = self.hearing is None or self.hearing.long_enough()
        return self.config.compute.service_down_time if heard else math.inf
