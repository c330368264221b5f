"""From the body of POST /v3/auth/tokens to a token: who is it, and for what."""

from __future__ import annotations

import msgspec

from kilonova.domain.clock import now
from kilonova.domain.errors import BadRequest, Forbidden
from kilonova.domain.identity import SYSTEM, ApplicationCredential, Target, User
from kilonova.identity import passwords
from kilonova.identity.tokens import Token, TokenKeys, audit_id
from kilonova.identity.validity import Validated, check, refuse
from kilonova.store import application_credentials, domains, projects, role_assignments, users
from kilonova.store.database import Database


class Named(msgspec.Struct, frozen=True):
    """A domain by id or by name."""

    id: str | None = None
    name: str | None = None


class Owned(msgspec.Struct, frozen=True):
    """A project or a user: by id, or by name and domain."""

    id: str | None = None
    name: str | None = None
    domain: Named | None = None


class WithPassword(Owned, frozen=True):
    password: str = ""


class Password(msgspec.Struct, frozen=True):
    user: WithPassword


class OldToken(msgspec.Struct, frozen=True):
    id: str


class Credential(msgspec.Struct, frozen=True):
    secret: str
    id: str | None = None
    name: str | None = None
    user: Owned | None = None


class Methods(msgspec.Struct, frozen=True):
    methods: list[str]
    password: Password | None = None
    token: OldToken | None = None
    application_credential: Credential | None = None


class System(msgspec.Struct, frozen=True):
    all: bool = False


class Scope(msgspec.Struct, frozen=True):
    project: Owned | None = None
    domain: Named | None = None
    system: System | None = None
    unscoped: dict[str, str] | None = None
    trust: dict[str, str] | None = msgspec.field(default=None, name="OS-TRUST:trust")


class Login(msgspec.Struct, frozen=True):
    """``scope`` absent: the user's default project if there is one. ``"unscoped"`` says: not even that."""

    identity: Methods
    scope: Scope | str | None = None


class _Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What one method showed: the user, as of ``epoch``, and what limits the token."""

    user_id: str
    epoch: int
    methods: list[str]
    chain: str | None = None
    expires_at: float | None = None
    credential: ApplicationCredential | None = None


def issue(db: Database, keys: TokenKeys, lifetime: float, login: Login) -> Validated:
    """A new, valid token. Unauthorized whatever is wrong with the secret, the user or the scope;
    BadRequest if the request makes no sense."""
    proofs = [_prove(db, keys, login.identity, method) for method in login.identity.methods]
    if not proofs:
        raise BadRequest("Expecting to find a method in auth.identity.methods.")
    first = proofs[0]
    if any(proof.user_id != first.user_id for proof in proofs):
        refuse("the methods are of different users")
    with db.read() as conn:
        target, target_id, epoch = _scope(db, login.scope, proofs)
        issued = now()
        limits = [proof.expires_at for proof in proofs if proof.expires_at is not None]
        chain = [proof.chain for proof in proofs if proof.chain]
        credentials = [proof.credential.id for proof in proofs if proof.credential]
        token = Token(
            user_id=first.user_id,
            user_epoch=first.epoch,
            methods=list(dict.fromkeys(method for proof in proofs for method in proof.methods)),
            audit_ids=[audit_id(), *chain[:1]],
            issued_at=issued,
            expires_at=min([issued + lifetime, *limits]),
            target=target,
            target_id=target_id,
            target_epoch=epoch,
            application_credential_id=credentials[0] if credentials else None,
        )
        return check(conn, token)


def _prove(db: Database, keys: TokenKeys, identity: Methods, method: str) -> _Proof:
    if method == "password" and identity.password is not None:
        return _by_password(db, identity.password.user)
    if method == "token" and identity.token is not None:
        return _by_token(db, keys, identity.token.id)
    if method == "application_credential" and identity.application_credential is not None:
        return _by_credential(db, identity.application_credential)
    if method in ("password", "token", "application_credential"):
        raise BadRequest(f"Expecting to find {method} in auth.identity.")
    return refuse("an authentication method that is not served", method=method)


def _by_password(db: Database, claim: WithPassword) -> _Proof:
    user = find_user(db, claim)
    if not passwords.matches(user.password_hash if user else None, claim.password) or user is None:
        refuse("unknown user or wrong password", user=claim.id or claim.name)
    return _Proof(user_id=user.id, epoch=user.token_epoch, methods=["password"])


def _by_token(db: Database, keys: TokenKeys, text: str) -> _Proof:
    token = keys.open(text)
    with db.read() as conn:
        old = check(conn, token)
    return _Proof(
        user_id=token.user_id,
        epoch=token.user_epoch,
        methods=[*token.methods, "token"],
        chain=token.audit_ids[-1],
        expires_at=token.expires_at,
        credential=old.credential,
    )


def _by_credential(db: Database, claim: Credential) -> _Proof:
    with db.read() as conn:
        found = application_credentials.get(conn, claim.id) if claim.id else _named_credential(db, claim)
        user = users.get(conn, found.user_id) if found else None
    if not passwords.matches(found.secret_hash if found else None, claim.secret) or not found or not user:
        refuse("unknown application credential or wrong secret", credential=claim.id or claim.name)
    return _Proof(
        user_id=user.id,
        epoch=user.token_epoch,
        methods=["application_credential"],
        expires_at=found.expires_at,
        credential=found,
    )


def _named_credential(db: Database, claim: Credential) -> ApplicationCredential | None:
    if claim.user is None or claim.name is None:
        raise BadRequest("An application credential is found by its id, or by its name and user.")
    user = find_user(db, claim.user)
    if user is None:
        return None
    with db.read() as conn:
        return next(iter(application_credentials.listed(conn, user.id, name=claim.name)), None)


def find_user(db: Database, ref: Owned) -> User | None:
    with db.read() as conn:
        if ref.id is not None:
            return users.get(conn, ref.id)
        domain_id = _domain_id(db, ref.domain)
        if ref.name is None or domain_id is None:
            raise BadRequest("A user is found by id, or by name and domain.")
        return users.by_name(conn, domain_id, ref.name)


def _domain_id(db: Database, ref: Named | None) -> str | None:
    """None if the request names no domain; an id that no domain has if it names an unknown one."""
    if ref is None or ref.id is not None or ref.name is None:
        return ref.id if ref else None
    with db.read() as conn:
        domain = domains.by_name(conn, ref.name)
    return domain.id if domain else ""


def _scope(db: Database, scope: Scope | str | None, proofs: list[_Proof]) -> tuple[Target | None, str, int]:
    """(kind, id, epoch) of what the token is asked for."""
    credential = next((proof.credential for proof in proofs if proof.credential), None)
    if credential is not None:
        return _credential_scope(db, scope, credential)
    if scope is None:
        return _default_scope(db, proofs[0].user_id)
    if isinstance(scope, str):
        if scope != "unscoped":
            raise BadRequest('The scope is an object, or the word "unscoped".')
        return None, "", 0
    asked = [name for name in scope.__struct_fields__ if getattr(scope, name) is not None]
    if len(asked) != 1:
        raise BadRequest("The scope is one of: project, domain, system, unscoped.")
    if scope.trust is not None:
        raise BadRequest("Trusts are not served here; application credentials do their work.")
    if scope.project is not None:
        return _project_scope(db, scope.project)
    if scope.domain is not None:
        return _domain_scope(db, scope.domain)
    if scope.system is not None:
        if not scope.system.all:
            raise BadRequest("The only system scope is all.")
        return Target.SYSTEM, SYSTEM, 0
    return None, "", 0


def _project_scope(db: Database, ref: Owned) -> tuple[Target, str, int]:
    with db.read() as conn:
        if ref.id is not None:
            project = projects.get(conn, ref.id)
        else:
            domain_id = _domain_id(db, ref.domain)
            if ref.name is None or domain_id is None:
                raise BadRequest("A project is found by id, or by name and domain.")
            project = projects.by_name(conn, domain_id, ref.name)
    if project is None:
        refuse("unknown project", project=ref.id or ref.name)
    return Target.PROJECT, project.id, project.token_epoch


def _domain_scope(db: Database, ref: Named) -> tuple[Target, str, int]:
    domain_id = _domain_id(db, ref)
    if domain_id is None:
        raise BadRequest("A domain is found by id or by name.")
    with db.read() as conn:
        domain = domains.get(conn, domain_id)
    if domain is None:
        refuse("unknown domain", domain=ref.id or ref.name)
    return Target.DOMAIN, domain.id, domain.token_epoch


def _default_scope(db: Database, user_id: str) -> tuple[Target | None, str, int]:
    """The user's default project, if a token can be had for it; else unscoped."""
    with db.read() as conn:
        user = users.get(conn, user_id)
        if user is None or user.default_project_id is None:
            return None, "", 0
        project = projects.get(conn, user.default_project_id)
        if project is None or not project.enabled:
            return None, "", 0
        domain = domains.get(conn, project.domain_id)
        usable = domain is not None and domain.enabled
        if usable and role_assignments.roles_of(conn, user_id, Target.PROJECT, project.id):
            return Target.PROJECT, project.id, project.token_epoch
    return None, "", 0


def _credential_scope(
    db: Database, scope: Scope | str | None, credential: ApplicationCredential
) -> tuple[Target, str, int]:
    """An application credential is for its project and nothing else, also through the tokens it gave."""
    found = _project_scope(db, Owned(id=credential.project_id))
    if scope is None:
        return found
    if isinstance(scope, Scope) and scope.project is not None and _project_scope(db, scope.project) == found:
        return found
    raise Forbidden("An application credential cannot be used for another scope than its own project.")
