"""Who may do what: OpenStack's default roles. ``rule`` is the name of Cinder's policy
(https://docs.openstack.org/cinder/latest/configuration/block-storage/policy.html), said in the refusal."""

from __future__ import annotations

from kilonova.domain.context import RequestContext
from kilonova.domain.errors import Forbidden


def require_admin(context: RequestContext, rule: str) -> None:
    """Forbidden unless the caller is an admin."""
    if not context.is_admin:
        raise _denied(rule)


def require_writer(context: RequestContext, rule: str) -> None:
    """Forbidden unless the caller may change things in its project."""
    if not (context.may_write and context.project_id):
        raise _denied(rule)


def require_project(context: RequestContext, project_id: str, rule: str) -> None:
    """Forbidden unless ``project_id`` is the caller's own, or the caller is an admin."""
    if not (context.is_admin or context.project_id == project_id):
        raise _denied(rule)


def _denied(rule: str) -> Forbidden:
    return Forbidden(f"Policy doesn't allow {rule} to be performed.")
