"""Flavors in the database."""

from __future__ import annotations

from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam as given

from kilonova.domain.clock import now
from kilonova.domain.errors import BadRequest, Conflict, NotFound
from kilonova.domain.servers import Flavor
from kilonova.store import dialect, paging, regexp
from kilonova.store.database import Row
from kilonova.store.schema.flavors import flavor_access, flavor_seed, flavors
from kilonova.store.statement import Statement

DEFAULTS = (
    Flavor(id="1", name="m1.tiny", vcpus=1, memory_mb=512, root_gb=1),
    Flavor(id="2", name="m1.small", vcpus=1, memory_mb=2048, root_gb=20),
    Flavor(id="3", name="m1.medium", vcpus=2, memory_mb=4096, root_gb=40),
    Flavor(id="4", name="m1.large", vcpus=4, memory_mb=8192, root_gb=80),
    Flavor(id="5", name="m1.xlarge", vcpus=8, memory_mb=16384, root_gb=160),
    Flavor(id="42", name="m1.nano", vcpus=1, memory_mb=128, root_gb=1),
)
"""The flavors of a new deployment: the classic five, and one for test guests."""

SORT_KEYS: dict[str, sa.ColumnElement[Any]] = {
    "created_at": flavors.c.created_at,
    "description": sa.func.coalesce(flavors.c.description, ""),
    "disabled": flavors.c.disabled,
    "ephemeral_gb": flavors.c.ephemeral_gb,
    "flavorid": flavors.c.id,
    "id": flavors.c.id,
    "is_public": flavors.c.is_public,
    "memory_mb": flavors.c.memory_mb,
    "name": flavors.c.name,
    "root_gb": flavors.c.root_gb,
    "rxtx_factor": flavors.c.rxtx_factor,
    "swap": flavors.c.swap_mb,
    "updated_at": sa.func.coalesce(flavors.c.updated_at, 0.0),
    # The API knows the key, but nothing has ever had a weight.
    "vcpu_weight": sa.literal(0),
    "vcpus": flavors.c.vcpus,
}
"""What a list may be ordered by."""

_FIELDS = [flavors.c[name] for name in Flavor.__struct_fields__]


def seed(conn: sa.Connection) -> None:
    """Make the default flavors, once in a deployment's life. Call it at each start."""
    if not dialect.insert_new(conn, flavor_seed, {"id": 1, "seeded_at": now()}):
        return
    conn.execute(dialect.insert(conn, flavors).on_conflict_do_nothing(), [_row(one) for one in DEFAULTS])


def get(
    conn: sa.Connection, flavor_id: str, project_id: str | None = None, for_update: bool = False
) -> Flavor:
    """A flavor that the project may use; None: any. NotFound else.

    SELECT … FROM flavors WHERE id = :id AND (is_public OR EXISTS (access of the project))
    """
    query = _get(project_id is not None, for_update)
    row = query.row(conn, {"flavor": flavor_id, "project": project_id})
    if row is None:
        raise NotFound(f"Flavor {flavor_id} could not be found.")
    return _flavor(row)


@cache
def _get(of_project: bool, for_update: bool) -> Statement:
    query = sa.select(*_FIELDS).where(flavors.c.id == given("flavor"))
    if of_project:
        query = query.where(flavors.c.is_public | _granted(given("project")))
    return Statement(query.with_for_update(key_share=True) if for_update else query)


def listed(
    conn: sa.Connection,
    *,
    project_id: str | None,
    is_public: bool | None = True,
    disabled: bool | None = None,
    min_memory_mb: int | None = None,
    min_root_gb: int | None = None,
    name: str | None = None,
    sort_key: str = "flavorid",
    descending: bool = False,
    marker: str | None = None,
    limit: int = 1000,
) -> list[Flavor]:
    """One page. ``is_public`` True: the public ones and those ``project_id`` was given; None: all.

    ``name`` is a regular expression. BadRequest if nothing has the marker's id.
    """
    key = SORT_KEYS[sort_key]
    query = sa.select(*_FIELDS)
    if is_public is not None:
        test = flavors.c.is_public.is_(is_public)
        query = query.where(test | _granted(project_id) if is_public and project_id else test)
    if disabled is not None:
        query = query.where(flavors.c.disabled.is_(disabled))
    if min_memory_mb is not None:
        query = query.where(flavors.c.memory_mb >= min_memory_mb)
    if min_root_gb is not None:
        query = query.where(flavors.c.root_gb >= min_root_gb)
    after = _position(conn, key, marker) if marker is not None else None
    query = paging.page(query, key, flavors.c.id, descending=descending, after=after, limit=None)
    patterns = [] if name is None else [(flavors.c.name, name)]
    return [_flavor(row) for row in regexp.rows(conn, query, patterns, limit)]


def create(conn: sa.Connection, flavor: Flavor) -> None:
    """INSERT INTO flavors; Conflict if the name or the id is taken."""
    if dialect.insert_new(conn, flavors, _row(flavor)):
        return
    if conn.execute(sa.select(flavors.c.id).where(flavors.c.id == flavor.id)).first():
        raise Conflict(f"Flavor with ID {flavor.id} already exists.")
    raise Conflict(f"Flavor with name {flavor.name} already exists.")


def change(conn: sa.Connection, flavor_id: str, **values: Any) -> None:
    """UPDATE flavors SET … WHERE id = :id; NotFound if there is none."""
    query = sa.update(flavors).where(flavors.c.id == flavor_id).values(updated_at=now(), **values)
    if conn.execute(query).rowcount == 0:
        raise NotFound(f"Flavor {flavor_id} could not be found.")


def delete(conn: sa.Connection, flavor_id: str) -> None:
    """Gone, and the access to it. Servers keep their own copy. NotFound if there is none."""
    if conn.execute(sa.delete(flavors).where(flavors.c.id == flavor_id)).rowcount == 0:
        raise NotFound(f"Flavor {flavor_id} could not be found.")


def projects(conn: sa.Connection, flavor_id: str) -> list[str]:
    """Ids of the projects that were given the flavor."""
    query = sa.select(flavor_access.c.project_id).where(flavor_access.c.flavor_id == flavor_id)
    return list(conn.execute(query.order_by(flavor_access.c.project_id)).scalars())


def grant(conn: sa.Connection, flavor_id: str, project_id: str) -> None:
    """Let a project use the flavor; Conflict if it may already."""
    row = {"flavor_id": flavor_id, "project_id": project_id}
    if not dialect.insert_new(conn, flavor_access, row):
        raise Conflict(
            f"Flavor access already exists for flavor {flavor_id} and project {project_id} combination."
        )


def revoke(conn: sa.Connection, flavor_id: str, project_id: str) -> None:
    """Take it back; NotFound if the project had none."""
    query = sa.delete(flavor_access).where(
        flavor_access.c.flavor_id == flavor_id, flavor_access.c.project_id == project_id
    )
    if conn.execute(query).rowcount == 0:
        raise NotFound(f"Flavor access not found for {flavor_id} / {project_id} combination.")


def _granted(project_id: Any) -> sa.ColumnElement[bool]:
    return sa.exists().where(
        flavor_access.c.flavor_id == flavors.c.id, flavor_access.c.project_id == project_id
    )


def _position(conn: sa.Connection, key: sa.ColumnElement[Any], marker: str) -> tuple[Any, str]:
    value = conn.execute(sa.select(key).where(flavors.c.id == marker)).one_or_none()
    if value is None:
        raise BadRequest(f"marker [{marker}] not found")
    return value[0], marker


def _flavor(row: Row) -> Flavor:
    return Flavor(**{name: getattr(row, name) for name in Flavor.__struct_fields__})


def _row(flavor: Flavor) -> dict[str, Any]:
    fields = {name: getattr(flavor, name) for name in Flavor.__struct_fields__}
    return {**fields, "created_at": now(), "updated_at": None}
