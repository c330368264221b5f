"""From the body of POST /v3/auth/tokens to a token: who is it, and for what."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from kilonova.domain.clock import now
from kilonova.domain.errors import BadRequest
from kilonova.domain.identity import ApplicationCredential
from kilonova.identity import passwords
from kilonova.identity.scopes import Owned, Scope, find_user, resolve
from kilonova.identity.tokens import Token, TokenKeys, audit_id
from kilonova.identity.validity import Validated, check, refuse
from kilonova.store import application_credentials, users
from kilonova.store.database import Database


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
    issued = now()
    limits = [proof.expires_at for proof in proofs if proof.expires_at is not None]
    chain = [proof.chain for proof in proofs if proof.chain]
    credential = next((proof.credential for proof in proofs if proof.credential), None)
    with db.read() as conn:
        aim = resolve(conn, login.scope, first.user_id, credential)
        token = Token(
            user_id=first.user_id,
            user_epoch=first.epoch,
            methods=list(dict.fromkeys(method for proof in proofs for method in proof.methods)),
            audit_ids=[audit_id(), *chain[:1]],
            issued_at=issued,
            expires_at=min([issued + lifetime, *limits]),
            target=aim.target,
            target_id=aim.id,
            target_epoch=aim.epoch,
            application_credential_id=credential.id if credential else None,
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
    with db.read() as conn:
        user = find_user(conn, claim)
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
        found = application_credentials.get(conn, claim.id) if claim.id else _named_credential(conn, claim)
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


def _named_credential(conn: sa.Connection, claim: Credential) -> ApplicationCredential | None:
    if claim.user is None or claim.name is None:
        raise BadRequest("An application credential is found by its id, or by its name and user.")
    user = find_user(conn, claim.user)
    if user is None:
        return None
    return next(iter(application_credentials.listed(conn, user.id, name=claim.name)), None)
