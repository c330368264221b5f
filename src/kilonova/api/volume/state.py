"""What the handlers of the Block Storage API work with: the first argument of every one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kilonova.config import Config
from kilonova.store.database import Database
from kilonova.volume.builtin.parts import Parts
from kilonova.volume.builtin.service import BuiltinVolumes

if TYPE_CHECKING:
    from kilonova.image.service import Images


@dataclass(frozen=True)
class VolumeAPI:
    volumes: BuiltinVolumes
    images: Images

    @property
    def db(self) -> Database:
        return self.volumes.db

    @property
    def config(self) -> Config:
        return self.volumes.config

    @property
    def parts(self) -> Parts:
        return self.volumes.parts
