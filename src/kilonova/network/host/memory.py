"""A host network without a network: what is plugged is remembered, and nothing else exists.

For the fake driver. It keeps the contract of ``network.base.HostNetwork`` as far as that can be kept without
a kernel: the same checks, idempotent, thread-safe. It remembers as long as it lives.
"""

from __future__ import annotations

from kilonova.domain.network import Vif
from kilonova.network.base import NO_DEEDS, MetadataDeeds, MetadataLookup
from kilonova.network.host import names
from kilonova.network.host.plan import check


class MemoryHost:
    def __init__(self) -> None:
        self._vifs: dict[str, Vif] = {}

    def start(self, metadata: MetadataLookup, deeds: MetadataDeeds = NO_DEEDS) -> None:
        """No guest of it can ask, so nothing answers."""

    def stop(self) -> None:
        pass

    def plug(self, vif: Vif) -> None:
        check(vif)
        self._vifs[vif.port_id] = vif

    def unplug(self, port_id: str) -> None:
        self._vifs.pop(names.checked("port", port_id), None)

    def plugged(self) -> dict[str, Vif]:
        return dict(self._vifs)

    def repair(self) -> list[str]:
        return []
