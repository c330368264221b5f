"""The rules that security groups are made with, as the API shows them: made and deleted, never changed."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from kilonova.api.network.resources import Resource, View
from kilonova.domain.context import RequestContext
from kilonova.domain.security_groups import DefaultRule
from kilonova.network.builtin import default_security_group_rules as service
from kilonova.network.builtin.requests import DefaultRuleCreate
from kilonova.store import default_security_group_rules as store


def _views(_conn: sa.Connection, _context: RequestContext, items: Sequence[DefaultRule]) -> list[View]:
    return [msgspec.structs.asdict(rule) | {"remote_address_group_id": None} for rule in items]


DEFAULT_RULES = Resource(
    name="default_security_group_rule",
    plural="default_security_group_rules",
    path="default-security-group-rules",
    create_body=DefaultRuleCreate,
    create=service.create,
    delete=service.delete,
    find=service.find,
    page=store.page,
    owners=service.owners,
    views=_views,
)
