"""Values in request bodies that the API takes in several forms, brought to one; ValueError if it is none.

Bodies are msgspec structs; their ``__post_init__`` calls these, and a ValueError there becomes a 400 that
names the field. The forms are those of Nova's request schemas, so that its clients stay valid.
"""

from __future__ import annotations

import re
import unicodedata

from kilonova.domain.errors import BadRequest

MAX_INT = 0x7FFFFFFF
"""The biggest number that the API keeps."""

_TRUE = frozenset(("True", "TRUE", "true", "1", "ON", "On", "on", "YES", "Yes", "yes"))
_FALSE = frozenset(("False", "FALSE", "false", "0", "OFF", "Off", "off", "NO", "No", "no"))
_INTEGER = re.compile(r"-?[0-9]{1,10}")


def printable(text: str) -> bool:
    """No control characters, surrogates, line separators; plain spaces are fine."""
    return not any(
        (kind := unicodedata.category(char))[0] == "C" or (kind[0] == "Z" and kind != "Zs") for char in text
    )


def name(field: str, value: str) -> str:
    """A resource's name: 1 to 255 printable characters, no space at either end."""
    if not 1 <= len(value) <= 255:
        raise ValueError(f"{field} must have 1 to 255 characters")
    if value != value.strip() or not printable(value):
        raise ValueError(f"{field} must be printable characters, without a space at either end")
    return value


def matching(field: str, value: str, pattern: str) -> str:
    """Text of a form that a regular expression gives, whole."""
    if not re.fullmatch(pattern, value):
        raise ValueError(f"{field} has characters or a form that it must not have")
    return value


def text(field: str, value: str | None, longest: int = 255) -> str | None:
    """A description: printable characters, perhaps none."""
    if value is None:
        return None
    if len(value) > longest:
        raise ValueError(f"{field} must have at most {longest} characters")
    if not printable(value):
        raise ValueError(f"{field} must be printable characters")
    return value


def integer(field: str, value: int | str, low: int, high: int = MAX_INT) -> int:
    """A number, or its digits in a string, within ``low`` and ``high``."""
    if isinstance(value, str) and not _INTEGER.fullmatch(value):
        raise ValueError(f"{field} must be an integer")
    number = int(value)
    if not low <= number <= high:
        raise ValueError(f"{field} must be between {low} and {high}")
    return number


def truth(field: str, value: bool | str) -> bool:
    """True, false, or a word for either."""
    if isinstance(value, bool):
        return value
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise ValueError(f"{field} must be a boolean")


def boolean(field: str, value: bool | str) -> bool:
    """truth(), for values that come from outside a body: BadRequest instead of ValueError."""
    try:
        return truth(field, value)
    except ValueError as error:
        raise BadRequest(f"Invalid input: {error}. Value: {value}") from error
