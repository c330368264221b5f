"""Projects: what servers, images and networks belong to."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from kilonova.domain.identity import Project, Target
from kilonova.store import identity, role_assignments, tokens
from kilonova.store.schema.identity import domains, projects, users


def create(conn: sa.Connection, project: Project) -> None:
    identity.insert(conn, projects, project)


def get(conn: sa.Connection, project_id: str, for_update: bool = False) -> Project | None:
    query = sa.select(projects).where(projects.c.id == project_id)
    return identity.one(conn, Project, query, for_update)


def by_name(conn: sa.Connection, domain_id: str, name: str) -> Project | None:
    query = sa.select(projects).where(projects.c.domain_id == domain_id, projects.c.name == name)
    return identity.one(conn, Project, query)


def listed(
    conn: sa.Connection,
    *,
    name: str | None = None,
    domain_id: str | None = None,
    parent_id: str | None = None,
    enabled: bool | None = None,
) -> list[Project]:
    """``parent_id`` may be a domain: then the projects right below it."""
    query = sa.select(projects)
    if parent_id is not None:
        top = sa.and_(projects.c.parent_id.is_(None), projects.c.domain_id == parent_id)
        query = query.where(sa.or_(projects.c.parent_id == parent_id, top))
    equal = {"name": name, "domain_id": domain_id, "enabled": enabled}
    return identity.many(conn, Project, identity.where(projects, query, equal))


def of_user(conn: sa.Connection, user_id: str, *, usable: bool = False) -> list[Project]:
    """The projects on which the user holds a role; ``usable``: only those that a token can be had for."""
    mine = role_assignments.targets(user_id, Target.PROJECT)
    query = sa.select(projects).where(projects.c.id.in_(mine)).order_by(projects.c.name, projects.c.id)
    if usable:
        query = query.join(domains, domains.c.id == projects.c.domain_id)
        query = query.where(projects.c.enabled, domains.c.enabled)
    return identity.many(conn, Project, query)


def above(conn: sa.Connection, project_id: str) -> list[Project]:
    """Its parent, that one's parent and so on, in this order.

    WITH RECURSIVE … SELECT parents of what was found, to the top
    """
    start = sa.select(projects.c.parent_id.label("id"), sa.literal(1).label("far"))
    found = start.where(projects.c.id == project_id).cte("above", recursive=True)
    further = sa.select(projects.c.parent_id, found.c.far + 1).join(found, found.c.id == projects.c.id)
    found = found.union_all(further)
    query = sa.select(projects).join(found, found.c.id == projects.c.id).order_by(found.c.far)
    return identity.many(conn, Project, query)


def below(conn: sa.Connection, project_id: str) -> list[Project]:
    """Its children, their children and so on, by name.

    WITH RECURSIVE … SELECT children of what was found, to the leaves
    """
    start = sa.select(projects.c.id).where(projects.c.parent_id == project_id)
    found = start.cte("below", recursive=True)
    found = found.union_all(sa.select(projects.c.id).join(found, projects.c.parent_id == found.c.id))
    query = sa.select(projects).join(found, found.c.id == projects.c.id)
    return identity.many(conn, Project, query.order_by(projects.c.name, projects.c.id))


def update(conn: sa.Connection, project_id: str, changes: dict[str, Any]) -> None:
    """A project that is disabled voids every token for it, for good."""
    if changes.get("enabled") is False:
        changes = changes | {"token_epoch": projects.c.token_epoch + 1}
    with identity.unique("project", str(changes.get("name"))):
        conn.execute(sa.update(projects).where(projects.c.id == project_id).values(**changes))
    tokens.bump(conn)


def has_children(conn: sa.Connection, project_id: str) -> bool:
    query = sa.select(projects.c.id).where(projects.c.parent_id == project_id).limit(1)
    return conn.execute(query).scalar() is not None


def delete(conn: sa.Connection, project_id: str) -> None:
    """The project, the roles held on it, and the application credentials for it (by cascade)."""
    role_assignments.forget(conn, sa.select(sa.literal(project_id)))
    conn.execute(
        sa.update(users).where(users.c.default_project_id == project_id).values(default_project_id=None)
    )
    conn.execute(sa.delete(projects).where(projects.c.id == project_id))
    tokens.bump(conn)
