"""What the columns of a database can keep, as types: a message that says more is not decoded.

What many say is written in one transaction, and a value that cannot be written would take all of them along.
Values that are made here are not checked, nor is their encoding another one.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

_NO_NUL = r"\A[^\x00]*\Z"

AnyText = Annotated[str, Meta(pattern=_NO_NUL)]
"""PostgreSQL keeps every character but NUL. How long it is, the bus bounds."""
Text255 = Annotated[str, Meta(max_length=255, pattern=_NO_NUL)]
Text64 = Annotated[str, Meta(max_length=64, pattern=_NO_NUL)]
Text32 = Annotated[str, Meta(max_length=32, pattern=_NO_NUL)]
Text16 = Annotated[str, Meta(max_length=16, pattern=_NO_NUL)]
Id = Annotated[str, Meta(max_length=36, pattern=_NO_NUL)]

Int32 = Annotated[int, Meta(ge=-(2**31), lt=2**31)]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Amount = Annotated[int, Meta(ge=0, lt=2**40)]
"""Of a resource: small enough for a 64-bit column when it is multiplied by a ratio and added up."""

Moment = Annotated[float, Meta(ge=0.0, lt=253402300800.0)]
"""Epoch seconds before the year 10000: what can be shown as a date."""
