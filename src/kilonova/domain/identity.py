"""Who there is: domains, projects, users, groups, roles, and who holds which role where.

A *domain* owns users, groups and projects. A *role* is held on a target: a project, a domain, or the system.
``token_epoch`` counts the events that void every token issued before (a password changed, an account or a
project disabled): a token carries the epochs it was issued under and is good only while they still hold.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

DEFAULT_DOMAIN = "default"
"""Id of the domain that always exists; its name is ``Default``."""
SYSTEM = "system"
"""Target id of the whole deployment, the only one of its kind."""


class Target(StrEnum):
    """What a role can be held on."""

    PROJECT = "project"
    DOMAIN = "domain"
    SYSTEM = "system"


class Actor(StrEnum):
    """Who can hold a role."""

    USER = "user"
    GROUP = "group"


class Domain(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    description: str = ""
    enabled: bool = True
    token_epoch: int = 0
    extra: dict[str, Any] = {}
    tags: list[str] = []


class Project(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    domain_id: str
    name: str
    parent_id: str | None = None
    """None: right below its domain."""
    description: str = ""
    enabled: bool = True
    token_epoch: int = 0
    extra: dict[str, Any] = {}
    tags: list[str] = []


class User(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    domain_id: str
    name: str
    password_hash: str | None = None
    enabled: bool = True
    default_project_id: str | None = None
    token_epoch: int = 0
    extra: dict[str, Any] = {}
    """Attributes that Keystone keeps without knowing them: email, description, …"""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    domain_id: str
    name: str
    description: str = ""
    extra: dict[str, Any] = {}


class Role(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    domain_id: str | None = None
    """A domain's own role is never in a token: it only implies others."""
    description: str | None = None
    extra: dict[str, Any] = {}


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """One role, held by one user or group on one target."""

    role_id: str
    actor: Actor
    actor_id: str
    target: Target
    target_id: str


class ApplicationCredential(msgspec.Struct, frozen=True, kw_only=True):
    """A secret of a user's for one project, with some of the user's roles on it."""

    id: str
    user_id: str
    project_id: str
    name: str
    description: str | None = None
    secret_hash: str
    unrestricted: bool = False
    """May manage other application credentials."""
    expires_at: float | None = None
