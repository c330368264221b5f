"""What is above and below a project: parents_as_ids, parents_as_list, subtree_as_ids, subtree_as_list.

Source: https://docs.openstack.org/api-ref/identity/v3/#show-project-details
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.api.http import Request
from kilonova.api.identity.state import chosen
from kilonova.domain.errors import BadRequest
from kilonova.domain.identity import Project
from kilonova.store import projects

View = Callable[[Request, Project], dict[str, Any]]
Tree = dict[str, Any]
"""Ids in ids; None where nothing follows."""


def asked(conn: sa.Connection, request: Request, project: Project, view: View) -> dict[str, Any]:
    """``{"parents": …, "subtree": …}``, as far as it is asked for. BadRequest: both forms of one.

    Ids are of all; lists are of the projects that the caller has a role on.
    """
    shown: dict[str, Any] = {}
    for name, find, tree in (("parents", projects.above, _above), ("subtree", projects.below, _below)):
        as_ids, as_list = chosen(request, f"{name}_as_ids"), chosen(request, f"{name}_as_list")
        if as_ids and as_list:
            raise BadRequest(f"Cannot use {name}_as_list and {name}_as_ids query params at the same time.")
        if as_ids or as_list:
            found = find(conn, project.id)
            shown[name] = tree(project, found) if as_ids else _list(conn, request, found, view)
    return shown


def _above(project: Project, found: Sequence[Project]) -> Tree:
    """The domain is above all."""
    tree: Tree | None = None
    for above in [project.domain_id, *(one.id for one in reversed(found))]:
        tree = {above: tree}
    return tree or {}


def _below(project: Project, found: Sequence[Project]) -> Tree | None:
    nodes: dict[str | None, Tree] = {one.parent_id: {} for one in found}
    for one in found:
        nodes[one.parent_id][one.id] = nodes.get(one.id)
    return nodes.get(project.id)


def _list(conn: sa.Connection, request: Request, found: Sequence[Project], view: View) -> list[Any]:
    mine = {one.id for one in projects.of_user(conn, request.context.user_id)}
    return [{"project": view(request, one)} for one in found if one.id in mine]
