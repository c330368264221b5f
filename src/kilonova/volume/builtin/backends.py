"""Which backend takes a new volume: by zone, type and room."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import sqlalchemy as sa

from kilonova.config import Config
from kilonova.domain.clock import now
from kilonova.store import volume_backends as store
from kilonova.store import volumes
from kilonova.store.database import Row

NO_BACKEND = "schedule allocate volume:Could not find any available weighted backend."


def is_true(spec: str | None) -> bool:
    """Of a capability in a type's extra specs: ``<is> True``."""
    words = (spec or "").split()
    return bool(words) and words[-1].lower() == "true" and words[:-1] in ([], ["<is>"])


def is_up(backend: Row, config: Config) -> bool:
    """Its manager lives."""
    return bool(now() - backend.reported_at < config.compute.service_down_time)


def serves(backend: Row, extra_specs: Mapping[str, str]) -> bool:
    """Whether volumes of a type with these specs may be there. A spec may have the scope ``capabilities``."""
    wanted = {name.removeprefix("capabilities:"): value for name, value in extra_specs.items()}
    if wanted.get("volume_backend_name") not in (None, backend.volume_backend_name):
        return False
    return backend.multiattach or not is_true(wanted.get("multiattach"))


def location(backend: Row) -> str:
    """``name@backend#pool``: the ``host`` of the volumes there."""
    return f"{backend.host}#{backend.pool}"


class Choice:
    """For volumes that are made in one transaction: each sees the room that those before it leave."""

    def __init__(self, conn: sa.Connection, config: Config, among: Collection[str] | None = None) -> None:
        """``among``: only these locations."""
        self._config = config
        self._backends = [
            backend
            for backend in store.every(conn)
            if not backend.disabled and (among is None or location(backend) in among)
        ]
        self._allocated = dict(volumes.allocated(conn))
        self._taken: dict[str, int] = {}

    def zones(self) -> set[str]:
        return {backend.availability_zone for backend in self._backends}

    def place(self, size_gb: int, extra_specs: Mapping[str, str], zone: str | None) -> tuple[str, str] | None:
        """Where it is to be, and in which zone: the fitting backend with the most room. None if none fits."""
        fit = [
            backend
            for backend in self._backends
            if is_up(backend, self._config)
            and backend.problem is None
            and zone in (None, backend.availability_zone)
            and serves(backend, extra_specs)
            and self._has_room(backend, size_gb)
        ]
        if not fit:
            return None
        best = max(fit, key=self._room)
        where = location(best)
        self._taken[where] = self._taken.get(where, 0) + size_gb
        return where, best.availability_zone

    def follow(self, host: str, extra_specs: Mapping[str, str]) -> bool:
        """Whether a volume of that type can be where its source is."""
        return any(location(one) == host and serves(one, extra_specs) for one in self._backends)

    def _room(self, backend: Row) -> float:
        free = float("inf") if backend.free_gb is None else backend.free_gb
        return float(free) - self._taken.get(location(backend), 0)

    def _has_room(self, backend: Row, size_gb: int) -> bool:
        """It has the bytes now, should they all be written, and has not promised them too often."""
        if backend.total_gb is None:
            return True
        promised = self._allocated.get(location(backend), 0) + self._taken.get(location(backend), 0)
        ratio = self._config.volume.max_over_subscription_ratio
        return self._room(backend) >= size_gb and promised + size_gb <= backend.total_gb * ratio
