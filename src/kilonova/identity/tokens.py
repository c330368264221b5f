"""What a token is made of, and how it is sealed: Fernet (AES-128-CBC, HMAC-SHA256), as Keystone's are.

A token holds only what was decided when it was issued. What it is worth now is asked of the database.
"""

from __future__ import annotations

import base64
import os
import secrets
from pathlib import Path

import msgspec
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from kilonova.domain.errors import KilonovaError, Unauthorized
from kilonova.domain.identity import Target

REFUSED = "The request you have made requires authentication."
"""All that a 401 says: the reason would help whoever guesses. The log has it."""
_MAX_TOKEN = 4096


class Token(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One issued token. Times are epoch seconds."""

    user_id: str
    user_epoch: int
    methods: list[str]
    audit_ids: list[str]
    """Its own id first; then, if it was had for another token, the id of the first of that chain."""
    issued_at: float
    expires_at: float
    target: Target | None = None
    """None: unscoped."""
    target_id: str = ""
    target_epoch: int = 0
    application_credential_id: str | None = None


def audit_id() -> str:
    return base64.urlsafe_b64encode(os.urandom(16)).rstrip(b"=").decode()


class TokenKeys:
    """Seals and opens tokens with the keys of one file: a Fernet key a line, the first one seals.

    Every API process of a deployment has the same file. It is made at the first start, readable by its owner
    alone. To change the key put a new line first, and drop the old one when its tokens have expired.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "token.keys"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _create(self.path)
        try:
            keys = [Fernet(line) for line in self.path.read_text().split()]
            self._fernet = MultiFernet(keys)
        except ValueError as error:
            raise KilonovaError(f"{self.path} does not hold Fernet keys, one a line: {error}") from error

    def seal(self, token: Token) -> str:
        return self._fernet.encrypt(msgspec.msgpack.encode(token)).decode()

    def open(self, text: str) -> Token:
        """Unauthorized if it is not one of ours. Its time may be over: the caller looks."""
        if len(text) > _MAX_TOKEN:
            raise Unauthorized(REFUSED)
        try:
            return _decode(self._fernet.decrypt(text.encode()))
        except (InvalidToken, msgspec.MsgspecError, UnicodeError) as error:
            raise Unauthorized(REFUSED) from error


_decode = msgspec.msgpack.Decoder(Token).decode


def _create(path: Path) -> None:
    """A file with a new key, complete from the first moment; nothing if another process was first."""
    if path.exists():
        return
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(Fernet.generate_key() + b"\n")
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
