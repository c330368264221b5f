"""Who may do what: admins manage, users see themselves. A guard wraps each handler in the table of routes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kilonova.api.http import Handler, Reply, Request
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import Forbidden

Test = Callable[[RequestContext, dict[str, str]], bool]
"""(who asks, the path's parameters) → whether they may, without being an admin."""


def forbidden(action: str) -> Forbidden:
    return Forbidden(f"You are not authorized to perform the requested action: identity:{action}.")


def guard(action: str, handler: Handler, test: Test) -> Handler:
    """The handler behind its policy. Nobody learns whether a thing exists that they may not see."""

    def guarded(state: Any, request: Request, **parameters: str) -> Reply:
        if not test(request.context, parameters):
            raise forbidden(action)
        return handler(state, request, **parameters)

    return guarded


def admin(action: str, handler: Handler) -> Handler:
    return guard(action, handler, lambda context, _: context.is_admin)


def owner(action: str, handler: Handler) -> Handler:
    """The user of the path alone."""
    return guard(action, handler, lambda context, ids: context.user_id == ids["user_id"])


def owner_or_admin(action: str, handler: Handler) -> Handler:
    return guard(action, handler, lambda context, ids: context.is_admin or context.user_id == ids["user_id"])


def inside_project(action: str, handler: Handler) -> Handler:
    """Admins, and tokens for the project of the path."""
    return guard(
        action, handler, lambda context, ids: context.is_admin or context.project_id == ids["project_id"]
    )


def inside_domain(action: str, handler: Handler) -> Handler:
    """Admins, and tokens for the domain of the path or a project of it."""
    return guard(
        action,
        handler,
        lambda context, ids: (
            context.is_admin or ids["domain_id"] in (context.domain_id, context.project_domain_id)
        ),
    )
