"""``Idempotency-Key``: a request that is sent again is done once, and gets the first answer again.

The form and the errors are those of draft-ietf-httpapi-idempotency-key-header: 400 for a malformed key, 409
while the first request is under way, 422 for a key that came with another request. A key is the caller's own:
it stands for one request of one user in one project by one method on one path.

What the request makes, its key and its answer are written by one transaction: after a crash all of it is
there, or nothing is. A request that fails has changed nothing and is not remembered: sent again, it is tried
again.

Answers hold passwords and private keys, so the database can read neither them nor the key: the row's name and
the secret that seals the answer are both derived from the caller's key, which is kept nowhere.
"""

from __future__ import annotations

import hmac
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import msgspec
import sqlalchemy as sa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kilonova import log
from kilonova.api.reply import Reply, encoded
from kilonova.domain import codec
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest, Conflict, KilonovaError, Unprocessable
from kilonova.engine.faults import FaultPoints
from kilonova.store import idempotency as store
from kilonova.store.database import Database, Row

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
"""Says ``true`` on an answer that was given before."""

_MAX_KEY = 255
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
"""A string of RFC 8941, as the draft wants it."""
_BARE = re.compile(r"[A-Za-z0-9._~:/+=@-]+")
"""What clients send that leave the quotes away: a UUID, a hash, a name."""

_NONCE = 12
_log = log.get("api")


class _Answer(msgspec.Struct, array_like=True):
    status: int
    headers: dict[str, str]
    content_type: str
    body: bytes | None


class _Replay(Exception):
    """At the first write: another process was quicker. Not of our tree of errors: no handler catches it."""

    def __init__(self, row: Row) -> None:
        super().__init__()
        self.row = row


class Asked(NamedTuple):
    """One request as the key is bound to it. ``what`` is all else that makes two requests the same."""

    context: RequestContext
    method: str
    path: str
    what: bytes


class Once:
    """Does the requests that came with a key. One a process, for all of its APIs."""

    def __init__(self, db: Database, lifetime: float, faults: FaultPoints) -> None:
        self._db = db
        self._lifetime = lifetime
        self._faults = faults
        self._under_way: set[str] = set()
        self._lock = threading.Lock()

    def answer(self, given: str, asked: Asked, handle: Callable[[], Reply]) -> Reply:
        """The answer of ``handle``, or the one that was given to the same request before.

        ``handle`` has no effect but its writes to the database and what it has done after their commit.
        """
        key = _Key(parsed(given), asked)
        with self._alone(key.id):
            if (known := self._known(key)) is not None:
                return known
            try:
                return self._first(key, asked.context.request_id, handle)
            except _Replay as replay:
                return self._again(key, replay.row)
            except KilonovaError:
                # Perhaps it fails because another process has just done it: the quota is full of it.
                if (known := self._known(key)) is not None:
                    return known
                raise

    def _first(self, key: _Key, request_id: str, handle: Callable[[], Reply]) -> Reply:
        def begin(conn: sa.Connection) -> None:
            if not store.reserve(conn, key.id):
                raise _under_way()
            row = store.find(conn, key.id, self._lifetime)
            if row is not None:
                raise _Replay(row)

        with self._db.together(begin) as transaction:
            reply = encoded(handle())
            assert transaction.conn is not None, "a route that creates wrote nothing"
            store.keep(
                transaction.conn,
                key.id,
                fingerprint=key.fingerprint,
                request_id=request_id,
                answer=key.seal(reply),
                lifetime=self._lifetime,
            )
            self._faults.reach("once.commit.before")
        self._faults.reach("once.commit.after")
        return reply

    def _known(self, key: _Key) -> Reply | None:
        with self._db.read() as conn:
            row = store.find(conn, key.id, self._lifetime)
        return None if row is None else self._again(key, row)

    def _again(self, key: _Key, row: Row) -> Reply:
        if not hmac.compare_digest(row.fingerprint, key.fingerprint):
            raise Unprocessable(f"This {HEADER} was used for another request: its body or version differs")
        with self._db.write(durable=True):
            pass  # what others commit may be seen before it is on the disk, and is promised only after
        _log.info("answered_before", first_request_id=row.request_id)
        return key.open(row.answer)

    @contextmanager
    def _alone(self, key_id: str) -> Iterator[None]:
        """In this process; a lock in the database holds the other ones off."""
        with self._lock:
            if key_id in self._under_way:
                raise _under_way()
            self._under_way.add(key_id)
        try:
            yield
        finally:
            with self._lock:
                self._under_way.remove(key_id)


class _Key:
    """What is derived from a caller's key: ``id`` to find the row by, the ``fingerprint``, the seal."""

    def __init__(self, key: str, asked: Asked) -> None:
        self._key = key.encode()
        context = asked.context
        owner = (context.user_id, context.project_id or "", context.domain_id or "")
        self._scope = "\0".join((*owner, asked.method, asked.path)).encode()
        self.id = self._derived(b"id", b"").hex()
        self.fingerprint = self._derived(b"request", asked.what).hex()

    def seal(self, reply: Reply) -> bytes:
        answer = _Answer(reply.status, dict(reply.headers), reply.content_type, reply.body)
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher().encrypt(nonce, msgspec.msgpack.encode(answer), None)

    def open(self, sealed: bytes) -> Reply:
        plain = self._cipher().decrypt(sealed[:_NONCE], sealed[_NONCE:], None)
        answer = codec.from_msgpack(plain, _Answer)
        headers: Mapping[str, str] = {**answer.headers, REPLAYED: "true"}
        return Reply(answer.status, answer.body, headers, answer.content_type)

    def _cipher(self) -> AESGCM:
        return AESGCM(self._derived(b"seal", b""))

    def _derived(self, purpose: bytes, what: bytes) -> bytes:
        return hmac.digest(self._key, b"\0".join((purpose, self._scope, what)), "sha256")


def parsed(given: str) -> str:
    """The key in a header's value: a quoted string, or a word. BadRequest: it is neither."""
    text = given.strip()
    quoted = _QUOTED.fullmatch(text)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else text if _BARE.fullmatch(text) else ""
    if not 1 <= len(key) <= _MAX_KEY:
        raise BadRequest(
            f"{HEADER} must be 1 to {_MAX_KEY} printable ASCII characters in double quotes; a UUID is best"
        )
    return key


def _under_way() -> Conflict:
    return Conflict(f"The first request with this {HEADER} is still in progress")


def what(body: bytes, query: str, version: tuple[int, int]) -> bytes:
    """All of a request but its path, as bytes."""
    return b"\0".join((f"{version[0]}.{version[1]}".encode(), query.encode(), body))
