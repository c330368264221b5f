"""A volume manager: takes the operations of its backends, tells of their room, shows hosts the way."""

from __future__ import annotations

import math
import threading
from functools import partial

from kilonova import log
from kilonova.bus.base import Handler, Subscription
from kilonova.domain.clock import now
from kilonova.domain.errors import BadRequest, KilonovaError, NotFound
from kilonova.domain.messages import Connected, ConnectVolume, PerformOperation, VolumeEnded
from kilonova.domain.volumes import VolumeWork
from kilonova.engine.ticker import Ticker
from kilonova.store import operations, volume_attachments, volume_backends
from kilonova.volume_manager.parts import Parts, Place
from kilonova.volume_manager.running import Running
from kilonova.volume_manager.work import perform

_log = log.get("volume")

_YOUNG = 60.0
"""Seconds within which the manager before may have ended what it has not told."""


class Manager:
    """``start()`` takes up what was cut off; ``close()`` lets what is under way end or be cut off."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._running = Running()
        self._ticker: Ticker | None = None
        self._reports: list[Ticker] = []
        self._served: Subscription | None = None

    def start(self) -> None:
        """Its backends are known when this returns, and its work goes on."""
        parts = self._parts
        with parts.db.write() as conn:
            operations.expire_owner(conn, parts.owner)
            volume_backends.left(conn, parts.name, {parts.host(backend) for backend in parts.places})
        self.report()
        topic = f"volume.{parts.name}"
        self._served = parts.bus.serve(topic, self.handlers(), parts.config.volume.max_concurrent_operations)
        lease = parts.config.operations.lease
        self._ticker = Ticker("volume-leases")
        self._ticker.every(lease / 3, partial(self._running.renew, parts.db, parts.owner, lease))
        for name in parts.places:  # one that hangs does not hold up the others' words
            self._reports.append(Ticker(f"volume-report-{name}"))
            self._reports[-1].every(parts.config.compute.report_interval, partial(self._report, name))
        with parts.db.read() as conn:
            waiting = operations.waiting_at(conn, f"{parts.name}@")
            ended = operations.extended_at(conn, f"{parts.name}@", now() - _YOUNG)
        for volume_id in ended:  # who did it may have died before it told
            parts.ended(VolumeEnded(id=volume_id, kind=VolumeWork.EXTEND, status=""))
        for work in waiting:
            parts.bus.cast(topic, "perform", PerformOperation(operation_id=work.id))

    def close(self) -> None:
        self._running.cancel_all()
        for part in (self._served, self._ticker, *self._reports):
            if part is not None:
                part.close()

    def handlers(self) -> dict[str, Handler]:
        def take(message: PerformOperation) -> None:
            perform(self._parts, self._running, message)

        return {"perform": take, "connect": self._connect}

    def _connect(self, message: ConnectVolume) -> Connected:
        backend = self._parts.backend(message.host)
        if backend is None:
            raise BadRequest(f"{self._parts.name} has no backend {message.host}.")
        with self._parts.turns.of(message.volume_id):
            self._check_wanted(message)
            connection = backend.connect(message.volume_id, message.connector)
        self._parts.faults.reach("volume_connect.make.after")
        return Connected(connection=connection)

    def _check_wanted(self, message: ConnectVolume) -> None:
        """NotFound if the host is no more to have it: what came so late would be left for ever."""
        with self._parts.db.read() as conn:
            wanted = volume_attachments.is_there(conn, message.volume_id, message.connector)
        if not wanted:
            raise NotFound(f"Host {message.connector.host} has no attachment of {message.volume_id}.")

    def report(self) -> None:
        """Each backend as it is now, into the records; all at the same time."""
        threads = [threading.Thread(target=self._report, args=(name,)) for name in self._parts.places]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _report(self, name: str) -> None:
        row = self._row(name, self._parts.places[name])
        with self._parts.db.write() as conn:
            volume_backends.report(conn, row)

    def _row(self, name: str, place: Place) -> dict[str, object]:
        problem, total, free = None, math.inf, math.inf
        try:
            place.backend.check()
            total, free = place.backend.capacity()
        except KilonovaError as error:
            problem = error.message
            _log.warning("backend_away", backend=name, error=problem)
        return {
            "host": self._parts.host(name),
            "pool": place.volume_backend_name,
            "volume_backend_name": place.volume_backend_name,
            "driver": place.driver,
            "availability_zone": self._parts.config.default_availability_zone,
            "total_gb": None if math.isinf(total) else total,
            "free_gb": None if math.isinf(free) else free,
            "multiattach": place.backend.multiattach,
            "shared": place.backend.shared,
            "problem": problem,
        }
