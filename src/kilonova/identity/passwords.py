"""Secrets at rest: argon2id hashes, and the only place that compares one with what somebody typed."""

from __future__ import annotations

import os
import threading

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

MAX_LENGTH = 4096
"""Characters of a password: Keystone's max_password_length."""

# OWASP's floor for argon2id is 19 MiB and two passes; three take 30 ms of one core of 2024.
_hasher = PasswordHasher(time_cost=3, memory_cost=19 * 1024, parallelism=1)
# argon2 lets go of the GIL: no more hashes at once than cores, so that a burst of logins stays small.
_slots = threading.BoundedSemaphore(os.cpu_count() or 1)


def hashed(secret: str) -> str:
    with _slots:
        return _hasher.hash(secret)


def matches(secret_hash: str | None, secret: str) -> bool:
    """Whether that is the secret. It takes as long for an account that is unknown (None) as for any other."""
    if len(secret) > MAX_LENGTH:
        return False
    with _slots:
        try:
            return _hasher.verify(secret_hash or _NOBODY, secret) and secret_hash is not None
        except (VerificationError, InvalidHashError):
            return False


# The hash of a random secret that nobody kept.
_NOBODY = _hasher.hash(os.urandom(16))
