"""Who asks: the identity behind one request, carried through every hop."""

from __future__ import annotations

import msgspec


class RequestContext(msgspec.Struct, frozen=True, kw_only=True):
    """One authenticated request.

    ``project_id`` is None for an unscoped or domain-scoped token. Roles are OpenStack's default ones: admin
    implies member implies reader (Keystone's default role implications); service is for services alone.
    """

    request_id: str
    user_id: str
    user_domain_id: str = "default"
    project_id: str | None = None
    project_domain_id: str | None = None
    domain_id: str | None = None
    roles: frozenset[str] = frozenset()

    @property
    def is_admin(self) -> bool:
        return "admin" in self.roles

    @property
    def may_write(self) -> bool:
        return self.is_admin or "member" in self.roles

    @property
    def is_service(self) -> bool:
        """Another service asks, such as a host's agent: it may fetch every image."""
        return "service" in self.roles
