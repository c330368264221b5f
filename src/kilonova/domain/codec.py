"""Decoding into types, from any thread.

msgspec looks at a type when it first decodes into it, and keeps what it found on the type. Two threads that
do so at once read what is half written, and the process dies. So every type is looked at once, under a lock,
and the decoders are kept.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_lock = threading.Lock()
_decoders: dict[Any, Any] = {}


def from_json(data: bytes | str, kind: type[T], strict: bool = True) -> T:
    """``data`` as ``kind``; msgspec.ValidationError or DecodeError if it is not."""
    value: T = _decoder(msgspec.json.Decoder, kind, strict).decode(data)
    return value


def from_msgpack(data: bytes | msgspec.Raw, kind: type[T]) -> T:
    value: T = _decoder(msgspec.msgpack.Decoder, kind, True).decode(data)
    return value


def msgpack_decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    """For who decodes into the same type again and again."""
    found: msgspec.msgpack.Decoder[Any] = _decoder(msgspec.msgpack.Decoder, kind, True)
    return found


def convert(value: Any, kind: type[T], strict: bool = True) -> T:
    """A decoded value as ``kind``; msgspec.ValidationError if it is not."""
    _decoder(msgspec.json.Decoder, kind, strict)  # the look at the type; convert() has no object to keep
    return msgspec.convert(value, kind, strict=strict)


def _decoder(make: Any, kind: Any, strict: bool) -> Any:
    key = (make, kind, strict)
    found = _decoders.get(key)
    if found is None:
        with _lock:
            found = _decoders.get(key)
            if found is None:
                found = _decoders[key] = make(kind, strict=strict)
    return found
