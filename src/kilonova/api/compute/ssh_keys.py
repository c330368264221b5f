"""SSH public keys: read, named by their fingerprint, and made."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from kilonova.api.compute import inputs
from kilonova.domain.errors import BadRequest

_RSA_BITS = 2048


@dataclass(frozen=True, slots=True)
class SshKey:
    """``private`` only of a key that was made here; it is shown once and kept nowhere."""

    public: str
    fingerprint: str
    private: str | None = None


def imported(public_key: str) -> SshKey:
    """One key in the form of authorized_keys: type, base64, comment. BadRequest if it is not that."""
    line = public_key.rstrip("\r\n")
    if not inputs.printable(line.replace("\t", " ")):
        raise _invalid()
    try:
        serialization.load_ssh_public_key(line.encode())
        blob = base64.b64decode(line.split()[1])
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _invalid() from error
    return SshKey(public_key, _fingerprint(blob))


def generate() -> SshKey:
    """A new RSA key; takes some tenths of a second."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    blob = base64.b64decode(public.split()[1])
    return SshKey(f"{public.decode()} Generated-by-Kilonova", _fingerprint(blob), private.decode())


def _fingerprint(blob: bytes) -> str:
    """MD5 in pairs, the form of old OpenSSH, which the API has kept."""
    return hashlib.md5(blob, usedforsecurity=False).digest().hex(":")


def _invalid() -> BadRequest:
    return BadRequest("Keypair data is invalid: failed to generate fingerprint")
