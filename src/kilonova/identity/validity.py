"""Whether a token is good now, and what for: the same check when it is issued and when it is shown."""

from __future__ import annotations

from typing import NoReturn

import msgspec
import sqlalchemy as sa

from kilonova import log
from kilonova.domain.clock import now
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import Unauthorized
from kilonova.domain.identity import ApplicationCredential, Domain, Project, Role, Target, User
from kilonova.identity.tokens import REFUSED, Token
from kilonova.store import application_credentials, domains, projects, role_assignments, tokens, users

_log = log.get("identity")


class Validated(msgspec.Struct, frozen=True, kw_only=True):
    """A token that is good, and everything the identity API says about it."""

    token: Token
    user: User
    user_domain: Domain
    project: Project | None = None
    domain: Domain | None = None
    """Of the project, or the one that the token is for."""
    roles: list[Role] = []
    credential: ApplicationCredential | None = None

    def context(self, request_id: str) -> RequestContext:
        """Without the token: that stays out of messages and logs."""
        project, scope = self.project, self.token.target
        return RequestContext(
            request_id=request_id,
            user_id=self.user.id,
            user_domain_id=self.user.domain_id,
            project_id=project.id if project else None,
            project_domain_id=project.domain_id if project else None,
            domain_id=self.token.target_id if scope is Target.DOMAIN else None,
            roles=frozenset(role.name for role in self.roles),
        )


def refuse(reason: str, **facts: object) -> NoReturn:
    """Unauthorized, always with the same words; the reason goes to the log."""
    _log.info("refused", reason=reason, **facts)
    raise Unauthorized(REFUSED)


def check(conn: sa.Connection, token: Token) -> Validated:
    """What the token is worth now. Unauthorized if nothing any more. A constant number of reads."""
    if token.expires_at <= now():
        refuse("the token has expired", user=token.user_id)
    if tokens.is_revoked(conn, token.audit_ids[0]):
        refuse("the token was revoked", user=token.user_id)
    user = users.get(conn, token.user_id)
    if user is None or not user.enabled or user.token_epoch != token.user_epoch:
        refuse("the user is gone, disabled, or has another password now", user=token.user_id)
    user_domain = domains.get(conn, user.domain_id)
    if user_domain is None or not user_domain.enabled:
        refuse("the user's domain is disabled", user=user.id)
    project, domain = _target(conn, token)
    roles = _roles(conn, token)
    if token.target is not None and not roles:
        refuse("the user has no role there", user=user.id, target=token.target_id)
    return Validated(
        token=token,
        user=user,
        user_domain=user_domain,
        project=project,
        domain=domain,
        roles=roles,
        credential=_credential(conn, token),
    )


def _target(conn: sa.Connection, token: Token) -> tuple[Project | None, Domain | None]:
    """The project and domain that the token is for."""
    project = None
    domain_id = token.target_id
    if token.target is Target.PROJECT:
        project = projects.get(conn, token.target_id)
        if project is None or not project.enabled or project.token_epoch != token.target_epoch:
            refuse("the project is gone or was disabled", project=token.target_id)
        domain_id = project.domain_id
    elif token.target is not Target.DOMAIN:
        return None, None
    domain = domains.get(conn, domain_id)
    if domain is None or not domain.enabled:
        refuse("the domain is gone or disabled", domain=domain_id)
    if token.target is Target.DOMAIN and domain.token_epoch != token.target_epoch:
        refuse("the domain was disabled", domain=domain_id)
    return project, domain


def _roles(conn: sa.Connection, token: Token) -> list[Role]:
    """What the user is there; an application credential lends no more than it was given."""
    if token.target is None:
        return []
    held = role_assignments.roles_of(conn, token.user_id, token.target, token.target_id)
    if token.application_credential_id is None:
        return held
    lent = role_assignments.roles_of_credential(conn, token.application_credential_id)
    ids = {role.id for role in lent}
    return [role for role in held if role.id in ids]


def _credential(conn: sa.Connection, token: Token) -> ApplicationCredential | None:
    if token.application_credential_id is None:
        return None
    credential = application_credentials.get(conn, token.application_credential_id)
    if credential is None or (credential.expires_at is not None and credential.expires_at <= now()):
        refuse("the application credential is gone or has expired", user=token.user_id)
    return credential
