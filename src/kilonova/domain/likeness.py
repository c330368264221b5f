"""Whether a host and its records are alike, told by one short text.

A host says what it has; a conductor makes the same of the records. Where both are the same, the comparison of
each server (compute.reconcile) would find nothing to do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from kilonova.domain.network import Vif
from kilonova.domain.servers import PowerState

PLUGGED = frozenset({PowerState.RUNNING, PowerState.PAUSED})
"""Whose network counts: others have none, or what is left of it."""


class Held(msgspec.Struct, array_like=True, frozen=True):
    """One server of a host."""

    server_id: str
    power_state: int
    vifs: list[Vif]


def digest(held: Iterable[Held]) -> str:
    """The same of two hosts that have the same servers in the same states, with the same networks."""
    alike = [
        Held(one.server_id, one.power_state, _sorted(one.vifs) if one.power_state in PLUGGED else [])
        for one in sorted(held, key=lambda one: one.server_id)
    ]
    return hashlib.blake2b(_encoder.encode(alike), digest_size=16).hexdigest()


_encoder = msgspec.msgpack.Encoder()


def _sorted(vifs: list[Vif]) -> list[Vif]:
    """What may pass is not compared here: hosts ask for it each minute anyway (compute.refresh)."""
    return sorted((vif.wiring for vif in vifs), key=lambda vif: vif.port_id)
