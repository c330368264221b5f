"""Secrets at rest: argon2id hashes, and the only place that compares one with what somebody typed."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

MAX_LENGTH = 4096
"""Characters of a password: Keystone's max_password_length."""

# Twice the passes of OWASP's argon2id at 7 MiB: 30 ms of one core of 2024.
_hasher = PasswordHasher(time_cost=10, memory_cost=7 * 1024, parallelism=1)
# Threads of its own, since malloc keeps the hash's memory for each thread that ever made one: ten API threads
# that hashed held 100 MiB for good. argon2 lets go of the GIL, so that two make 60 hashes a second.
_workers = ThreadPoolExecutor(2, thread_name_prefix="password")


def hashed(secret: str) -> str:
    return _workers.submit(_hasher.hash, secret).result()


def matches(secret_hash: str | None, secret: str) -> bool:
    """Whether that is the secret. It takes as long for an account that is unknown (None) as for any other."""
    nobody = _nobody()
    if len(secret) > MAX_LENGTH:
        return False
    return _workers.submit(_verify, secret_hash or nobody, secret).result() and secret_hash is not None


def _verify(secret_hash: str, secret: str) -> bool:
    try:
        return _hasher.verify(secret_hash, secret)
    except (VerificationError, InvalidHashError):
        return False


@cache
def _nobody() -> str:
    """The hash of a random secret that nobody kept."""
    return hashed(os.urandom(16).hex())
