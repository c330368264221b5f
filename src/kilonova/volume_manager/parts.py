"""What every part of a volume manager works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple, Protocol

from kilonova.bus.base import Bus
from kilonova.cancel import Cancel
from kilonova.config import Config
from kilonova.domain.messages import VolumeEnded
from kilonova.engine.faults import FaultPoints
from kilonova.store.database import Database
from kilonova.volume.base import Backend
from kilonova.volume_manager.turns import Turns


class Uploads(Protocol):
    """Where volumes are copied to as images."""

    def upload(self, image_id: str, data: BinaryIO, size: int, cancel: Cancel) -> None:
        """The image has that data. Again, also after being cut off: the same. Raises what the image service
        refuses with; Unavailable while it does not let go of what was cut off; StaleEpoch soon after
        ``cancel`` is set."""


class Place(NamedTuple):
    """One backend: its driver's name, what volume types call it, and how it is worked with."""

    driver: str
    volume_backend_name: str
    backend: Backend


@dataclass(frozen=True)
class Parts:
    """``name``: of the managers that stand in for each other. ``owner``: under which this one takes
    operations, the same after a restart: who starts under it knows that the one before is dead."""

    name: str
    owner: str
    config: Config
    db: Database
    bus: Bus
    places: Mapping[str, Place]
    uploads: Uploads
    faults: FaultPoints
    ended: Callable[[VolumeEnded], None]
    turns: Turns = field(default_factory=Turns)

    def host(self, backend: str) -> str:
        """``name@backend``"""
        return f"{self.name}@{backend}"

    def backend(self, host: str | None) -> Backend | None:
        """Of a volume's ``name@backend#pool``; None if it is none of ours."""
        name, _, rest = (host or "").partition("@")
        place = self.places.get(rest.partition("#")[0])
        return place.backend if name == self.name and place is not None else None
