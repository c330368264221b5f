"""The built-in identity service: who may do what. Every API asks it about every request."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

import msgspec

from kilonova.config import Config
from kilonova.domain.clock import now
from kilonova.domain.context import RequestContext
from kilonova.identity.bootstrap import bootstrap
from kilonova.identity.login import Login, issue
from kilonova.identity.tokens import TokenKeys
from kilonova.identity.validity import Validated, check, refuse
from kilonova.store import tokens
from kilonova.store.database import Database

CACHED_TOKENS = 2048


class _Known(msgspec.Struct, frozen=True):
    """A token found valid in that generation of the database."""

    generation: int
    expires_at: float
    context: RequestContext


class Identity:
    """Issues tokens and says what they are worth. Safe in many threads, and in many processes on one
    database with one folder of keys."""

    def __init__(self, db: Database, config: Config, key_folder: Path) -> None:
        self.db = db
        self.config = config
        self._keys = TokenKeys(key_folder)
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._lock = threading.Lock()

    def bootstrap(self, admin_password: str | None) -> bool:
        """What must exist before anybody can log in; whether the admin has that password. One who is there
        keeps the password they have."""
        return bootstrap(self.db, admin_password)

    def authenticate(self, token: str, request_id: str) -> RequestContext:
        """Who sends this token. Unauthorized if it is not good now.

        One indexed read of one number a request: while no token was voided anywhere, what was found valid
        still is; after that, each token is looked at once more.
        """
        with self.db.read() as conn:
            generation = tokens.generation(conn)
        known = self._known.get(token)
        if known is None or known.generation != generation:
            known = self._learn(token)
        if known.expires_at <= now():
            refuse("the token has expired", user=known.context.user_id)
        return msgspec.structs.replace(known.context, request_id=request_id)

    def _learn(self, text: str) -> _Known:
        token = self._keys.open(text)
        with self.db.read() as conn:
            # In the same snapshot as the checks, so that no voiding can fall between.
            generation = tokens.generation(conn)
            found = check(conn, token)
        known = _Known(generation, token.expires_at, found.context(""))
        with self._lock:
            self._known[text] = known
            self._known.move_to_end(text)
            if len(self._known) > CACHED_TOKENS:
                self._known.popitem(last=False)
        return known

    def login(self, login: Login) -> tuple[str, Validated]:
        """A new token, as text and as what it stands for. Unauthorized, BadRequest, Forbidden."""
        found = issue(self.db, self._keys, self.config.token.expiration, login)
        return self._keys.seal(found.token), found

    def validate(self, token: str) -> Validated:
        """All that is known of a token. Unauthorized if it is not good now."""
        opened = self._keys.open(token)
        with self.db.read() as conn:
            return check(conn, opened)

    def revoke(self, token: str) -> None:
        """Refused from now on, in every process."""
        opened = self._keys.open(token)
        with self.db.write(durable=True) as conn:
            tokens.revoke(conn, opened.audit_ids[0], opened.expires_at)
