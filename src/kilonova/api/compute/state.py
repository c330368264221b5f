"""What the handlers of the compute API work with: the first argument of every one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kilonova.bus.base import Bus
from kilonova.config import Config
from kilonova.engine import interfaces, server_volumes
from kilonova.engine.faults import NO_FAULTS, FaultPoints
from kilonova.network.base import NetworkService
from kilonova.store.database import Database
from kilonova.volume.base import VolumeService

if TYPE_CHECKING:
    from kilonova.image.service import Images


@dataclass(frozen=True)
class ComputeAPI:
    """The parts behind the API. ``images.ref(context, image_id)`` gives an ImageRef, or NotFound."""

    config: Config
    db: Database
    bus: Bus
    network: NetworkService
    images: Images
    volumes: VolumeService
    faults: FaultPoints = NO_FAULTS

    @property
    def interfaces(self) -> interfaces.Parts:
        """For engine.interfaces."""
        return interfaces.Parts(self.db, self.bus, self.config, self.network, self.faults)

    @property
    def server_volumes(self) -> server_volumes.Parts:
        """For engine.server_volumes."""
        return server_volumes.Parts(self.db, self.bus, self.config, self.volumes, self.faults)
