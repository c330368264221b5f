"""What must exist before anybody can log in, as ``keystone-manage bootstrap`` makes it."""

from __future__ import annotations

import uuid
from itertools import pairwise

import sqlalchemy as sa

from kilonova.domain.identity import (
    DEFAULT_DOMAIN,
    SYSTEM,
    Actor,
    Assignment,
    Domain,
    Project,
    Role,
    Target,
    User,
)
from kilonova.identity import passwords
from kilonova.store import dialect, domains, projects, role_assignments, roles, users
from kilonova.store.database import Database
from kilonova.store.repeat import repeated

ROLES = ("admin", "member", "reader")
"""Each implies the next."""
SERVICE = "service"
"""Implies nothing: agents of hosts fetch images by it (image.access)."""


def new_id() -> str:
    return uuid.uuid4().hex


def bootstrap(db: Database, admin_password: str | None) -> bool:
    """The default domain, the four roles, project and user ``admin``, project ``service``. Whether that
    password is the admin's; None makes no admin, but all the rest.

    Only what is missing is made: a password the admin changed, or a role that was taken away from somebody
    else, stays as it is.
    """
    with db.read() as conn:
        admin = users.by_name(conn, DEFAULT_DOMAIN, "admin")
    password_hash = None
    if admin is None and admin_password is not None:
        password_hash = passwords.hashed(admin_password)
    admin = _made(db, password_hash)
    if admin is None or admin_password is None:
        return False
    return admin.password_hash == password_hash or passwords.matches(admin.password_hash, admin_password)


@repeated
def _made(db: Database, password_hash: str | None) -> User | None:
    """One transaction; the admin, as he is after it."""
    with db.write(durable=True) as conn:
        dialect.lock(conn, "bootstrap")  # of several that start at once the first one does it
        if domains.get(conn, DEFAULT_DOMAIN) is None:
            domains.create(conn, Domain(id=DEFAULT_DOMAIN, name="Default", description="The default domain"))
        admin_role = _roles(conn)
        project_id = _project(conn, "admin")
        _project(conn, "service")
        user = users.by_name(conn, DEFAULT_DOMAIN, "admin")
        if user is None:
            if password_hash is None:
                return None
            user = User(id=new_id(), domain_id=DEFAULT_DOMAIN, name="admin", password_hash=password_hash)
            users.create(conn, user)
        for target, target_id in ((Target.PROJECT, project_id), (Target.SYSTEM, SYSTEM)):
            role_assignments.add(
                conn,
                Assignment(
                    role_id=admin_role,
                    actor=Actor.USER,
                    actor_id=user.id,
                    target=target,
                    target_id=target_id,
                ),
            )
        return user


def _roles(conn: sa.Connection) -> str:
    """The id of the admin role."""
    found = {role.name: role.id for role in roles.listed(conn)}
    for name in (*ROLES, SERVICE):
        if name not in found:
            found[name] = new_id()
            roles.create(conn, Role(id=found[name], name=name))
    for prior, implied in pairwise(ROLES):
        roles.imply(conn, found[prior], found[implied])
    return found["admin"]


def _project(conn: sa.Connection, name: str) -> str:
    project = projects.by_name(conn, DEFAULT_DOMAIN, name)
    if project is None:
        project = Project(id=new_id(), domain_id=DEFAULT_DOMAIN, name=name)
        projects.create(conn, project)
    return project.id
