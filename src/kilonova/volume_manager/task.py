"""One operation that this manager owns: its steps, its journal, its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from kilonova import metrics
from kilonova.cancel import Cancel
from kilonova.domain.clock import now
from kilonova.domain.errors import StaleEpoch
from kilonova.domain.messages import StepRecord, VolumeEnded
from kilonova.engine import lease
from kilonova.store import operations
from kilonova.store.database import Row
from kilonova.store.repeat import repeated
from kilonova.volume.base import Backend
from kilonova.volume.builtin import endings
from kilonova.volume.builtin.parts import Parts as RuleParts
from kilonova.volume_manager.parts import Parts

_steps = metrics.Histogram(
    "volume_step_seconds", "Steps of work on volumes.", ("step", "result"), metrics.SLOW
)


class Task:
    """``work``: the operation as it was taken; ``backend``: where it happens."""

    def __init__(self, parts: Parts, work: Row, backend: Backend, cancel: Cancel) -> None:
        self.parts = parts
        self.work = work
        self.backend = backend
        self.cancel = cancel
        self._untold: list[StepRecord] = []
        """Steps that ended: written with the next one that begins, or with the operation's end."""

    @property
    def id(self) -> str:
        """Of what it happens to."""
        return str(self.work.server_id)

    @property
    def rules(self) -> RuleParts:
        """What the service's rules work with."""
        return RuleParts(self.parts.db, self.parts.bus, self.parts.config, self.parts.faults.reach)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """It begins only if the operation is still ours. StaleEpoch."""
        started = now()
        self._begin(StepRecord(name=name, started_at=started))
        self.reach(f"{name}.before")
        try:
            yield
        except Exception as error:
            _steps.observe(now() - started, name, "Error")
            self._untold.append(_ended(name, started, "Error", str(error)))
            raise
        _steps.observe(now() - started, name, "Success")
        self._untold.append(_ended(name, started, "Success"))
        self.reach(f"{name}.after")

    def reach(self, point: str) -> None:
        """A fault point of this kind of operation."""
        self.parts.faults.reach(f"{self.work.kind}.{point}")

    @repeated
    def _begin(self, step: StepRecord) -> None:
        if self.cancel.is_set():
            raise StaleEpoch(f"operation {self.work.id} has moved on")
        with self.parts.db.write() as conn:
            lease.kept(conn, self.work, lease_until=now() + self.parts.config.operations.lease)
            self._put_steps(conn, step)
        self._untold.clear()

    def _put_steps(self, conn: sa.Connection, *more: StepRecord) -> None:
        operations.put_steps(conn, self.work.id, self.work.epoch, self.parts.name, [*self._untold, *more])

    @repeated
    def done(self) -> None:
        """It went well: the records say so, in one transaction, if it is still ours."""
        with self.parts.db.write(durable=True) as conn:
            lease.kept(conn, self.work)
            self._put_steps(conn)
            status = endings.done(conn, self.rules, self.work)
            lease.close(conn, self.work, operations.DONE)
        self.reach("end.after")
        self._say(status)

    @repeated
    def failed(self, message: str) -> None:
        with self.parts.db.write(durable=True) as conn:
            lease.kept(conn, self.work)
            self._put_steps(conn)
            status = endings.failed(conn, self.rules, self.work, message)
            lease.close(conn, self.work, operations.FAILED, message)
        self.reach("fail.after")
        self._say(status)

    @repeated
    def postpone(self, message: str) -> None:
        """What it needs is away: whoever is quickest takes it up again in a moment."""
        with self.parts.db.write() as conn:
            lease.kept(conn, self.work)
            self._put_steps(conn)
            lease.postpone(conn, self.work, message)

    def _say(self, status: str) -> None:
        self.parts.ended(VolumeEnded(id=self.id, kind=self.work.kind, status=status))


def _ended(name: str, started: float, result: str, message: str | None = None) -> StepRecord:
    return StepRecord(name=name, started_at=started, finished_at=now(), result=result, message=message)
