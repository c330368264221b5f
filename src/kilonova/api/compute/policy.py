"""Who may do what: OpenStack's default roles, in the three questions that handlers ask.

admin may all; a member changes what is its project's; a reader looks. ``rule`` is the name of Nova's policy
(https://docs.openstack.org/nova/latest/configuration/policy.html), said in the refusal as Nova says it.
"""

from __future__ import annotations

from kilonova.domain.context import RequestContext
from kilonova.domain.errors import Forbidden


def require_admin(context: RequestContext, rule: str) -> None:
    """Forbidden unless the caller is an admin."""
    if not context.is_admin:
        raise _denied(rule)


def require_writer(context: RequestContext, rule: str) -> None:
    """Forbidden unless the caller may change things in its project."""
    if not (context.may_write and (context.project_id or context.is_admin)):
        raise _denied(rule)


def require_project(context: RequestContext, project_id: str, rule: str) -> None:
    """Forbidden unless ``project_id`` is the caller's own, or the caller is an admin."""
    if not (context.is_admin or context.project_id == project_id):
        raise _denied(rule)


def require_user(context: RequestContext, user_id: str, rule: str) -> None:
    """Forbidden unless ``user_id`` is the caller, or the caller is an admin."""
    if not (context.is_admin or context.user_id == user_id):
        raise _denied(rule)


def owner_filter(context: RequestContext) -> str | None:
    """The project whose things the caller sees; None: an admin, who sees all.

    A token without a project sees nothing: the empty string is no project's id.
    """
    return None if context.is_admin else context.project_id or ""


def _denied(rule: str) -> Forbidden:
    return Forbidden(f"Policy doesn't allow os_compute_api:{rule} to be performed.")
