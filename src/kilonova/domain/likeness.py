"""Whether a host and its records are alike, told by one short text.

A host says what it has; a conductor makes the same of the records. Where both are the same, the comparison of
each server (compute.reconcile) would find nothing to do.

The two may be of different releases: a field that only one of them knows counts for nothing while it is as by
default, so that an upgrade lets no host compare each minute.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from functools import cache
from typing import Any

import msgspec
from msgspec import NODEFAULT, structs

from kilonova.domain.network import Vif
from kilonova.domain.servers import PowerState

PLUGGED = frozenset({PowerState.RUNNING, PowerState.PAUSED})
"""Whose network counts: others have none, or what is left of it."""


class Held(msgspec.Struct, frozen=True):
    """One server of a host."""

    server_id: str
    power_state: int
    vifs: list[Vif]
    volumes: Collection[str] = ()


def digest(held: Iterable[Held]) -> str:
    """The same of two hosts that have the same servers in the same states, with the same networks and
    volumes."""
    alike = [_alike(one) for one in sorted(held, key=lambda one: one.server_id)]
    return hashlib.blake2b(_encoder.encode(alike), digest_size=16).hexdigest()


def _alike(one: Held) -> list[Any]:
    """What is plugged counts where a guest may use it."""
    if one.power_state not in PLUGGED:
        return [one.server_id, one.power_state, []]
    found = [one.server_id, one.power_state, _networks(one.vifs)]
    return [*found, sorted(one.volumes)] if one.volumes else found


_encoder = msgspec.msgpack.Encoder(order="sorted")


def _networks(vifs: list[Vif]) -> list[Any]:
    """What may pass is not compared here: hosts ask for it each minute anyway (compute.refresh)."""
    return [_as_told(vif.wiring) for vif in sorted(vifs, key=lambda vif: vif.port_id)]


def _as_told(value: Any) -> Any:
    """Of a struct, and of those in it, the fields that are not as by default. By their values: msgspec's own
    ``omit_defaults`` asks which object it is."""
    if isinstance(value, msgspec.Struct):
        fields = ((name, getattr(value, name), default) for name, default in _defaults(type(value)))
        return {name: _as_told(held) for name, held, default in fields if held != default}
    return [_as_told(one) for one in value] if isinstance(value, list) else value


@cache
def _defaults(kind: type[msgspec.Struct]) -> list[tuple[str, Any]]:
    """Each field, and what it is by default; NODEFAULT, which nothing equals."""
    return [
        (field.name, field.default if field.default_factory is NODEFAULT else field.default_factory())
        for field in structs.fields(kind)
    ]
