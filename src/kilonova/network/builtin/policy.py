"""Who may do what: Neutron's default policy with its three roles.

A reader reads, a member writes what is its project's, an admin everything. What one may not even see is
not found (404, decided by the queries); what one sees and may not touch is forbidden (403, here).
"""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest
from kilonova.network.builtin.errors import PolicyNotAuthorized

_NOBODY = "-"
"""No project has this id; "" is that of ports which belong to no project."""


def scope(context: RequestContext) -> str | None:
    """The project whose things the asker sees; None: everything."""
    return None if context.is_admin else context.project_id or _NOBODY


def may_write(context: RequestContext, rule: str) -> None:
    if not context.may_write:
        raise denied(rule)


def admin_only(context: RequestContext, rule: str) -> None:
    if not context.is_admin:
        raise denied(rule)


def owner_only(context: RequestContext, rule: str, *project_ids: str) -> None:
    """The asker may write, and is an admin or of one of these projects."""
    may_write(context, rule)
    if not context.is_admin and context.project_id not in project_ids:
        raise denied(rule)


def denied(rule: str) -> PolicyNotAuthorized:
    return PolicyNotAuthorized(f"({rule}) is disallowed by policy")


def project_of_new(
    context: RequestContext, project_id: str | UnsetType, tenant_id: str | UnsetType, rule: str
) -> str:
    """The project that a new thing will belong to."""
    may_write(context, rule)
    if UNSET not in (project_id, tenant_id) and project_id != tenant_id:
        raise BadRequest("'project_id' and 'tenant_id' do not match")
    asked = tenant_id if project_id is UNSET else project_id
    if asked is UNSET or asked == context.project_id:
        if context.project_id is None:
            raise BadRequest("The token has no project, and the request names none: project_id is needed")
        return context.project_id
    if not context.is_admin:
        raise BadRequest(
            "Specifying 'project_id' or 'tenant_id' other than the authenticated project in request "
            "requires admin privileges"
        )
    return str(asked)
