"""Whether a process can do its work: it has started, and all that it needs is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from enum import StrEnum
from typing import Any

from kilonova.domain.errors import KilonovaError
from kilonova.monitoring.question import Question

PATIENCE = 1.5
"""Seconds that all parts together have to answer; who asks us does not wait long either."""


class State(StrEnum):
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"


class Health:
    """Of one process. ``needs`` are the names of what it cannot work without; more may be shown."""

    def __init__(self, service: str, needs: Sequence[str]) -> None:
        self._service = service
        self._needs = tuple(needs)
        self._parts: dict[str, Question[None] | None] = dict.fromkeys(needs)
        self.state = State.STARTING

    def watch(self, name: str, check: Callable[[], None]) -> None:
        """From now on that part can be asked: ``check`` raises if it is not there."""
        self._parts[name] = Question(check)

    def report(self, *, reasons: bool) -> tuple[bool, dict[str, Any]]:
        """(ready, what to show). ``reasons`` are not for everybody: they name hosts and users."""
        problems = self._problems()
        ready = self.state is State.READY and not any(problems[name] for name in self._needs)
        shown: dict[str, Any] = {"service": self._service, "ready": ready, "state": self.state.value}
        shown["parts"] = {name: "down" if problem else "up" for name, problem in problems.items()}
        if reasons:
            shown["problems"] = {name: problem for name, problem in problems.items() if problem}
        return ready, shown

    def parts_up(self) -> dict[tuple[str, ...], float]:
        """For a gauge: 1 of each part that is there, else 0."""
        return {(name,): 0.0 if problem else 1.0 for name, problem in self._problems().items()}

    def _problems(self) -> dict[str, str]:
        """What each part says; nothing if it is there."""
        asked = {
            name: None if question is None else question.begin() for name, question in self._parts.items()
        }
        until = time.monotonic() + PATIENCE
        return {name: _problem(one, max(0.0, until - time.monotonic())) for name, one in asked.items()}


def _problem(asked: Future[None] | None, seconds: float) -> str:
    if asked is None:
        return "not connected yet"
    try:
        Question.answered(asked, seconds)
    except KilonovaError as error:
        return error.message or type(error).__name__
    except Exception as error:  # noqa: BLE001 - whatever it is, the part cannot be used
        return f"{type(error).__name__}: {error}"
    return ""
