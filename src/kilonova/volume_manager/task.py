"""One operation that this manager owns: its steps, its journal, its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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

    @property
    def id(self) -> str:
        """Of what it happens to."""
        return str(self.work.server_id)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """It begins only if the operation is still ours. StaleEpoch."""
        point = f"{self.work.kind}.{name}"
        self.parts.faults.reach(f"{point}.before")
        started = now()
        self._tell(StepRecord(name=name, started_at=started))
        try:
            yield
        except Exception as error:
            _steps.observe(now() - started, name, "Error")
            if not isinstance(error, StaleEpoch):
                self._tell(_ended(name, started, "Error", str(error)))
            raise
        _steps.observe(now() - started, name, "Success")
        self._tell(_ended(name, started, "Success"))
        self.parts.faults.reach(f"{point}.after")

    @repeated
    def _tell(self, step: StepRecord) -> None:
        if self.cancel.is_set():
            raise StaleEpoch(f"operation {self.work.id} has moved on")
        with self.parts.db.write() as conn:
            lease.kept(conn, self.work, lease_until=now() + self.parts.config.operations.lease)
            operations.put_steps(conn, self.work.id, self.work.epoch, self.parts.name, [step])

    @repeated
    def done(self) -> None:
        """It went well: the records say so, in one transaction, if it is still ours."""
        self.parts.faults.reach(f"{self.work.kind}.end.before")
        with self.parts.db.write(durable=True) as conn:
            lease.kept(conn, self.work)
            status = endings.done(conn, self.work)
            lease.close(conn, self.work, operations.DONE)
        self.parts.faults.reach(f"{self.work.kind}.end.after")
        self._say(status)

    @repeated
    def failed(self, message: str) -> None:
        with self.parts.db.write(durable=True) as conn:
            lease.kept(conn, self.work)
            status = endings.failed(conn, self.work, message)
            lease.close(conn, self.work, operations.FAILED, message)
        self._say(status)

    @repeated
    def postpone(self, message: str) -> None:
        """What it needs is away: whoever is quickest takes it up again in a moment."""
        with self.parts.db.write() as conn:
            lease.postpone(conn, self.work, message)

    def _say(self, status: str) -> None:
        self.parts.ended(VolumeEnded(id=self.id, kind=self.work.kind, status=status))


def _ended(name: str, started: float, result: str, message: str | None = None) -> StepRecord:
    return StepRecord(name=name, started_at=started, finished_at=now(), result=result, message=message)
