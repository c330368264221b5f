"""/v3/projects, their tags, and /v3/users/{id}/projects"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from msgspec import UNSET, UnsetType

from kilonova.api.http import Reply, Request
from kilonova.api.identity import project_trees
from kilonova.api.identity.state import (
    Id,
    Options,
    ShortName,
    State,
    attributes,
    changes,
    convert,
    document,
    flag,
    found,
    home_domain,
    href,
    listing,
    same_or_unset,
)
from kilonova.domain.errors import BadRequest, Forbidden, NotFound
from kilonova.domain.identity import Project
from kilonova.identity.bootstrap import new_id
from kilonova.store import domains, projects, users

Tag = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"^[^,/]*$")]
Tags = Annotated[list[Tag], msgspec.Meta(max_length=80)]


class _Create(msgspec.Struct, frozen=True):
    name: ShortName
    domain_id: Id | None = None
    parent_id: Id | None = None
    description: str | None = None
    enabled: bool = True
    is_domain: bool | None = False
    tags: Tags = []
    options: Options = Options()


class _Update(msgspec.Struct, frozen=True):
    name: ShortName | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    domain_id: Id | UnsetType = UNSET
    parent_id: Id | UnsetType | None = UNSET
    is_domain: bool | UnsetType = UNSET
    options: Options = Options()


class _TagsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tags: Tags


def view(request: Request, project: Project) -> dict[str, Any]:
    return project.extra | {
        "id": project.id,
        "name": project.name,
        "domain_id": project.domain_id,
        "parent_id": project.parent_id or project.domain_id,
        "description": project.description,
        "enabled": project.enabled,
        "is_domain": False,
        "tags": project.tags,
        "options": {},
        "links": {"self": href(request, "projects", project.id)},
    }


def index(state: State, request: Request) -> Reply:
    if flag(request, "is_domain"):
        return listing(request, "projects", [])
    with state.db.read() as conn:
        items = projects.listed(
            conn,
            name=request.query("name"),
            domain_id=request.query("domain_id"),
            parent_id=request.query("parent_id"),
            enabled=flag(request, "enabled"),
        )
    return listing(request, "projects", [view(request, item) for item in items if _tagged(request, item)])


def _tagged(request: Request, project: Project) -> bool:
    """tags: all of them; tags-any: one of them; not-tags, not-tags-any: the opposites."""
    held = set(project.tags)

    def asked(name: str) -> set[str] | None:
        text = request.query(name)
        return None if text is None else set(text.split(","))

    every, some = asked("tags"), asked("tags-any")
    not_every, not_some = asked("not-tags"), asked("not-tags-any")
    return (
        (every is None or every <= held)
        and (some is None or bool(some & held))
        and (not_every is None or not not_every <= held)
        and (not_some is None or not not_some & held)
    )


def of_user(state: State, request: Request, user_id: str) -> Reply:
    """Those on which the user holds a role."""
    with state.db.read() as conn:
        found(users.get(conn, user_id), "user", user_id)
        items = projects.of_user(conn, user_id)
    for name in ("name", "domain_id"):
        if (value := request.query(name)) is not None:
            items = [item for item in items if getattr(item, name) == value]
    if (enabled := flag(request, "enabled")) is not None:
        items = [item for item in items if item.enabled is enabled]
    return listing(request, "projects", [view(request, item) for item in items])


def create(state: State, request: Request) -> Reply:
    given, extra = attributes(request, "project", _Create)
    if given.is_domain:
        raise BadRequest("A project that acts as a domain is created as a domain: POST /v3/domains.")
    with state.db.write() as conn:
        parent_id, domain_id = _place(conn, request, given)
        project = Project(
            id=new_id(),
            domain_id=domain_id,
            name=given.name,
            parent_id=parent_id,
            description=given.description or "",
            enabled=given.enabled,
            tags=given.tags,
            extra=extra,
        )
        projects.create(conn, project)
    return Reply(201, {"project": view(request, project)})


def _place(conn: sa.Connection, request: Request, given: _Create) -> tuple[str | None, str]:
    """(parent, domain) of a new project. A parent that is a domain means: right below it."""
    parent_id, domain_id = given.parent_id, given.domain_id
    if parent_id is not None and domains.get(conn, parent_id) is not None:
        domain_id, parent_id = domain_id or parent_id, None
        if domain_id != given.parent_id:
            raise BadRequest("The parent must be the project's own domain.")
    if parent_id is not None:
        parent = found(projects.get(conn, parent_id), "project", parent_id)
        domain_id = domain_id or parent.domain_id
        if parent.domain_id != domain_id:
            raise BadRequest("The parent must be of the same domain.")
    domain_id = home_domain(request, domain_id)
    found(domains.get(conn, domain_id), "domain", domain_id)
    return parent_id, domain_id


def show(state: State, request: Request, project_id: str) -> Reply:
    """With what is above or below it, if that is asked for."""
    with state.db.read() as conn:
        project = found(projects.get(conn, project_id), "project", project_id)
        tree = project_trees.asked(conn, request, project, view)
    return Reply(200, {"project": view(request, project) | tree})


def update(state: State, request: Request, project_id: str) -> Reply:
    given, extra = attributes(request, "project", _Update)
    with state.db.write() as conn:
        project = found(projects.get(conn, project_id, for_update=True), "project", project_id)
        same_or_unset("The domain of a project", given.domain_id, project.domain_id)
        same_or_unset("is_domain", given.is_domain, False)
        if given.parent_id is not UNSET and given.parent_id != (project.parent_id or project.domain_id):
            raise Forbidden("Update of parent_id is not allowed.")
        new = changes(given, "name", "description", "enabled", "tags")
        if "description" in new:
            new["description"] = new["description"] or ""
        projects.update(conn, project_id, new | {"extra": project.extra | extra})
        project = found(projects.get(conn, project_id), "project", project_id)
    return Reply(200, {"project": view(request, project)})


def delete(state: State, request: Request, project_id: str) -> Reply:
    with state.db.write() as conn:
        found(projects.get(conn, project_id), "project", project_id)
        if projects.has_children(conn, project_id):
            raise Forbidden(
                f"Cannot delete the project {project_id} since it is not a leaf in the hierarchy."
            )
        projects.delete(conn, project_id)
    return Reply(204)


def tags(state: State, request: Request, project_id: str) -> Reply:
    with state.db.read() as conn:
        project = found(projects.get(conn, project_id), "project", project_id)
    links = {"self": href(request, "projects", project_id, "tags"), "previous": None, "next": None}
    return Reply(200, {"tags": project.tags, "links": links})


def set_tags(state: State, request: Request, project_id: str) -> Reply:
    new = convert(document(request), _TagsBody).tags
    _set_tags(state, project_id, lambda _: new)
    return tags(state, request, project_id)


def clear_tags(state: State, request: Request, project_id: str) -> Reply:
    _set_tags(state, project_id, lambda _: [])
    return Reply(204)


def has_tag(state: State, request: Request, project_id: str, tag: str) -> Reply:
    with state.db.read() as conn:
        project = found(projects.get(conn, project_id), "project", project_id)
    if tag not in project.tags:
        raise NotFound(f"Could not find project tag: {tag}.")
    return Reply(204)


def add_tag(state: State, request: Request, project_id: str, tag: str) -> Reply:
    convert([tag], Tags)
    _set_tags(state, project_id, lambda old: [*old, tag])
    return Reply(201, headers={"Location": href(request, "projects", project_id, "tags")})


def remove_tag(state: State, request: Request, project_id: str, tag: str) -> Reply:
    has_tag(state, request, project_id, tag)
    _set_tags(state, project_id, lambda old: [item for item in old if item != tag])
    return Reply(204)


def _set_tags(state: State, project_id: str, change: Any) -> None:
    with state.db.write() as conn:
        project = found(projects.get(conn, project_id, for_update=True), "project", project_id)
        new = list(dict.fromkeys(change(project.tags)))
        projects.update(conn, project_id, {"tags": convert(new, Tags)})
