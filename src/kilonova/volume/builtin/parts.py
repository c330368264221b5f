"""What every part of the volume service works with, and how it begins an operation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa

from kilonova.bus.base import Bus
from kilonova.config import Config
from kilonova.domain.clock import now
from kilonova.domain.context import RequestContext
from kilonova.domain.messages import PerformOperation
from kilonova.domain.volumes import VolumeWork, manager_topic
from kilonova.store import operations
from kilonova.store.database import Database, after_commit


def nowhere(_point: str) -> None:
    """No fault point is of interest."""


@dataclass(frozen=True)
class Parts:
    """``reach``: of the process's fault points."""

    db: Database
    bus: Bus
    config: Config
    reach: Callable[[str], None] = nowhere


def begin(
    conn: sa.Connection,
    parts: Parts,
    context: RequestContext,
    kind: VolumeWork,
    resource_id: str,
    project_id: str,
    host: str,
    payload: dict[str, Any] | None = None,
) -> None:
    """An operation of what ``host`` keeps, in the transaction that shows it; then its managers are told."""
    deadline = now() + parts.config.volume.operation_timeout
    work = operations.new(kind, kind, resource_id, project_id, context, deadline)
    work |= {"host": host, "payload": payload or {}}
    operations.insert(conn, [work])
    after_commit(conn, partial(_ring, parts, kind, host, work["id"]))


def _ring(parts: Parts, kind: str, host: str, operation_id: str) -> None:
    parts.reach(f"{kind}.accept.after")
    parts.bus.cast(manager_topic(host), "perform", PerformOperation(operation_id=operation_id))
    parts.reach(f"{kind}.ring.after")


def system_context(request_id: str, project_id: str, user_id: str = "") -> RequestContext:
    """As whom is done what an earlier request asked for."""
    return RequestContext(request_id=request_id, user_id=user_id, project_id=project_id)
