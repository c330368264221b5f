"""The key of a Ceph user, as its ceph.conf says where it is: for whoever cannot read the file himself."""

from __future__ import annotations

import base64
import binascii
import configparser
from pathlib import Path

from kilonova.domain.errors import NotFound, Unavailable
from kilonova.rbd import bindings


def key_of(conf: Path, user: str) -> bytes:
    """client.``user``'s. Unavailable: this host has none, or no bindings; no message has any of a key."""
    entity = f"client.{user}"
    try:
        key, keyfile, keyrings = _places(conf, entity)
    except NotFound as error:
        raise Unavailable(error.message) from error
    found = key or _read(keyfile).strip() or _of_keyrings(keyrings, entity)
    try:
        value = base64.b64decode(found, validate=True)
    except binascii.Error:
        value = b""
    if not value:
        raise Unavailable(
            f"this host has no key of Ceph's {entity} ({conf} names {keyrings or 'no keyring'})"
        )
    return value


def _places(conf: Path, entity: str) -> list[str]:
    with bindings.translated(f"Ceph ({conf}, {entity})"):
        connection = bindings.connection(str(conf), entity, {})
        try:
            return [connection.conf_get(option) or "" for option in ("key", "keyfile", "keyring")]
        finally:
            connection.shutdown()


def _of_keyrings(paths: str, entity: str) -> str:
    for path in paths.replace(";", ",").replace(" ", ",").split(","):
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            parser.read_string("\n".join(line.strip() for line in _read(path).splitlines()))
        except configparser.Error as error:
            raise Unavailable(f"{path} is no keyring of Ceph's") from error.with_traceback(None)
        if found := parser.get(entity, "key", fallback=""):
            return found
    return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text() if path else ""
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise Unavailable(f"cannot read {path}: {type(error).__name__}") from None
