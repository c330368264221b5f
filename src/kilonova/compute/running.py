"""What an agent works on now: one thing at a time for each server, cancelled when it moved on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from kilonova.cancel import Cancel
from kilonova.domain.messages import Work


@dataclass
class Task:
    work: Work
    cancel: Cancel = field(default_factory=Cancel)


class Running:
    """Tasks by server. A newer one for the same server cancels the older and waits until that has ended."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._current: dict[str, Task] = {}
        self._waiting: dict[str, Task] = {}
        self._reserved: set[str] = set()

    @contextmanager
    def begin(self, work: Work) -> Iterator[Task | None]:
        """The task, when it is this work's turn; None for a message that came twice or too late."""
        task = Task(work)
        if not self._enter(task):
            yield None
            return
        try:
            yield task
        finally:
            with self._changed:
                del self._current[work.server_id]
                self._changed.notify_all()

    def _enter(self, task: Task) -> bool:
        server_id = task.work.server_id
        with self._changed:
            for other in (self._current.get(server_id), self._waiting.get(server_id)):
                if other is not None and not _newer(task.work, other.work):
                    return False
            self._waiting[server_id] = task
            if server_id in self._current:
                self._current[server_id].cancel.set()
            self._changed.notify_all()  # a task that waited until now is no longer the newest
            self._changed.wait_for(
                lambda: self._waiting.get(server_id) is not task or not self._taken(server_id)
            )
            if self._waiting.get(server_id) is not task:
                return False
            del self._waiting[server_id]
            self._current[server_id] = task
            return True

    def _taken(self, server_id: str) -> bool:
        return server_id in self._current or server_id in self._reserved

    @contextmanager
    def reserved(self, server_id: str) -> Iterator[bool]:
        """Work for this server waits until the block ends. False, and nothing waits, if there is some."""
        with self._changed:
            free = not self._taken(server_id) and server_id not in self._waiting
            if free:
                self._reserved.add(server_id)
        try:
            yield free
        finally:
            if free:
                with self._changed:
                    self._reserved.discard(server_id)
                    self._changed.notify_all()

    def superseded(self, task: Task) -> bool:
        """Whether newer work for the same server waits here for this one to end."""
        with self._changed:
            return task.work.server_id in self._waiting

    def busy(self, server_id: str) -> bool:
        with self._changed:
            return server_id in self._current or server_id in self._waiting

    def held(self) -> dict[str, int]:
        """Operation id → epoch of all that is worked on."""
        with self._changed:
            return {task.work.operation_id: task.work.epoch for task in self._current.values()}

    def cancel_all(self) -> None:
        """Cancel everything: the agent stops, and what is cut off goes on at its next start."""
        with self._changed:
            for task in self._current.values():
                task.cancel.set()

    def cancel_all_but(self, asked: dict[str, int], kept: set[str]) -> None:
        """Cancel those of ``asked`` that are not kept: they moved on."""
        with self._changed:
            for task in self._current.values():
                work = task.work
                if asked.get(work.operation_id) == work.epoch and work.operation_id not in kept:
                    task.cancel.set()


def _newer(work: Work, than: Work) -> bool:
    """Work of another operation is newer: a server has one open operation at a time."""
    return work.operation_id != than.operation_id or work.epoch > than.epoch
