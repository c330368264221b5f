"""The journal of one piece of work: its steps, told to the conductor as they pass, and their undo.

``with journal.step("plug_vifs", undo=…)``: the step's begin and end are recorded; if the work fails later,
the undos run in reverse. Telling the conductor of a step also asks whether the work is still ours. What was
asked a moment ago is not asked again: short steps are told together, with the next word that is said, and a
step that takes longer is told while it runs (``look``).
"""

from __future__ import annotations

import math
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from kilonova import log, metrics
from kilonova.compute.insist import insist
from kilonova.compute.parts import Parts, Reply
from kilonova.domain.clock import now
from kilonova.domain.errors import KilonovaError, StaleEpoch
from kilonova.domain.messages import Nothing, Progress, StepRecord, Work
from kilonova.domain.servers import TaskState

_log = log.get("compute")
_steps = metrics.Histogram("step_seconds", "Steps of work on a host.", ("step", "result"), metrics.SLOW)

Ask = Callable[[str, msgspec.Struct, Any], Any]

LOOK = 0.5
"""Seconds after which a step that still runs is told, if it was not."""
_FRESH = 1.0
"""Seconds for which an answer of the conductor counts: who slept longer (SIGSTOP) asks before he acts."""

_FOLDERS = re.compile(r"(?<![\w:/.])/(?!dev/|proc/|sys/|usr/)(?:[^/\s'\"]+/)+")
"""Of a path in a message, all but its last part."""


class Step:
    """``note``: what is worth telling of a step that went well."""

    note: str = ""


class Journal:
    """``cancel`` is set by others when the work has moved on; the next step then raises StaleEpoch."""

    def __init__(self, parts: Parts, work: Work, cancel: threading.Event) -> None:
        self._parts = parts
        self._work = work
        self._cancel = cancel
        self._lock = threading.Lock()
        """Of what is told and what is not: look() is another thread's."""
        self._fresh_until = -math.inf
        self._open = True
        self._begun: StepRecord | None = None
        """The step that runs, while the conductor does not know of it."""
        self._untold: list[StepRecord] = []
        self._undos: list[tuple[str, Callable[[], None]]] = []
        self._failed_step: str | None = None
        self.trace: str | None = None
        """Where the step that failed did so."""

    @contextmanager
    def step(
        self,
        name: str,
        *,
        undo: Callable[[], None] | None = None,
        shows: TaskState | None = None,
        asks: bool = False,
    ) -> Iterator[Step]:
        """One step. ``undo`` is kept before the step begins: half a step must be undone too.

        ``shows``: the server's task state from here on. ``asks``: the conductor is asked, however lately it
        was.
        """
        if self._cancel.is_set():
            raise StaleEpoch(f"operation {self._work.operation_id} has moved on")
        if undo is not None:
            self._undos.append((name, undo))
        begun = StepRecord(name=name, started_at=now())
        with self._lock:
            if shows is None and not asks and time.monotonic() < self._fresh_until:
                self._begun = begun
            else:
                self._tell(begun, shows, self.ask)
        with self._recorded(name, begun.started_at) as step:
            yield step

    @contextmanager
    def after_commit(self, name: str) -> Iterator[None]:
        """A step of work whose operation is closed already: told with the message that ends the work."""
        with self._recorded(name, now()):
            yield

    @contextmanager
    def _recorded(self, name: str, started: float) -> Iterator[Step]:
        self._parts.faults.reach(f"{self._work.kind}.{name}.before")
        step = Step()
        try:
            yield step
        except Exception as error:
            self._failed_step, self.trace = name, _plain(traceback.format_exc())
            _steps.observe(now() - started, name, "Error")
            self._ended(_record(name, started, "Error", words(error), self.trace))
            raise
        self._ended(_record(name, started, "Success", step.note or None))
        _steps.observe(now() - started, name, "Success")
        self._parts.faults.reach(f"{self._work.kind}.{name}.after")

    def _ended(self, step: StepRecord) -> None:
        with self._lock:
            self._begun = None
            self._untold.append(step)

    def look(self) -> bool:
        """Tell the step that runs, if it was not told. To be called each LOOK seconds until it returns False,
        which is after close()."""
        if not self._lock.acquire(blocking=False):
            return True  # it is being told
        try:
            if self._open and self._begun is not None:
                self._tell(self._begun, None, self._parts.ask)
                self._begun = None
        except StaleEpoch:
            self._cancel.set()
        except KilonovaError as error:
            _log.warning("step_not_told", error=error.message)
        finally:
            self._lock.release()
        return self._open

    def close(self) -> None:
        """The work has ended, or was let go."""
        with self._lock:
            self._open = False

    def failure(self, error: Exception) -> str:
        """Which step failed and why, for the fault that the user sees."""
        return f"{self._failed_step} failed: {words(error)}" if self._failed_step else words(error)

    def untold(self) -> list[StepRecord]:
        """What the conductor does not know yet, for the message that ends the work."""
        with self._lock:
            steps, self._untold = self._untold, []
        return steps

    def undo(self) -> bool:
        """Run the undos, last step first; each is tried whatever became of the others. True: all worked."""
        clean = True
        for name, undo in reversed(self._undos):
            started = now()
            self._parts.faults.reach(f"{self._work.kind}.undo_{name}.before")
            try:
                undo()
            except Exception as error:  # noqa: BLE001 - the other undos must have their turn
                clean = False
                if isinstance(error, KilonovaError):
                    _log.warning("undo_failed", step=name, error=error.message)
                else:
                    _log.exception("undo_failed", step=name)
                self._untold.append(_record(f"undo {name}", started, "Error", words(error)))
            else:
                self._untold.append(_record(f"undo {name}", started, "Success"))
                self._parts.faults.reach(f"{self._work.kind}.undo_{name}.after")
        self._undos.clear()
        return clean

    def ask(self, method: str, message: msgspec.Struct, reply: type[Reply]) -> Reply:
        """The conductor's answer, however long it takes, until the work's own deadline."""
        return insist(lambda: self._parts.ask(method, message, reply), self._work.deadline, self._cancel)

    def _tell(self, begun: StepRecord, shows: TaskState | None, ask: Ask) -> None:
        message = Progress(
            host=self._parts.host,
            operation_id=self._work.operation_id,
            epoch=self._work.epoch,
            steps=[*self._untold, begun],
            task_state=shows,
        )
        asked = time.monotonic()
        ask("progress", message, Nothing)
        self._untold.clear()
        self._fresh_until = asked + min(_FRESH, self._work.lease / 4)


def _record(
    name: str,
    started: float,
    result: str,
    message: str | None = None,
    details: str | None = None,
) -> StepRecord:
    return StepRecord(
        name=name,
        started_at=started,
        finished_at=now(),
        result=result,
        message=message,
        details=details,
    )


def words(error: Exception) -> str:
    """What went wrong, for the user of the cloud: where things lie on the host is left to the trace."""
    if isinstance(error, KilonovaError):
        text = error.message
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    else:
        text = f"unexpected {type(error).__name__}"  # its words are of our making, and in the trace
    return _plain(_FOLDERS.sub("", text))


def _plain(text: str) -> str:
    """As text that any encoding and database keeps: what is none may come from a guest or a tool."""
    return text.replace("\0", "?").encode(errors="replace").decode()
