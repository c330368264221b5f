"""A host network without a network: what is plugged is remembered, and nothing else exists.

For the fake driver. It keeps the contract of ``network.base.HostNetwork`` as far as that can be kept without
a kernel: the same checks, idempotent, thread-safe. It remembers as long as it lives.
"""

from __future__ import annotations

from collections.abc import Callable

from kilonova.domain.network import NetworkState, PlugKind, Vif
from kilonova.domain.routers import HostRouters
from kilonova.network.base import NO_DEEDS, MetadataDeeds, MetadataLookup
from kilonova.network.host import names
from kilonova.network.host.plan import check


class MemoryHost:
    follows = False
    plug_kind: PlugKind = "bridge"
    tunnel_address: str | None = None

    def __init__(self) -> None:
        self._vifs: dict[str, Vif] = {}
        self._routers = HostRouters()

    def start(self, metadata: MetadataLookup, deeds: MetadataDeeds = NO_DEEDS) -> None:
        """No guest of it can ask, so nothing answers."""

    def stop(self) -> None:
        pass

    def plug(self, vif: Vif) -> None:
        check(vif)
        self._vifs[vif.port_id] = vif

    def unplug(self, port_id: str) -> None:
        self._vifs.pop(names.checked("port", port_id), None)

    def refresh(self, state: NetworkState, asked: float) -> None:
        """There are no packets that it could let pass or not."""

    def users(self, ids: set[str]) -> set[str]:
        return set()

    def networks(self) -> set[str]:
        return {vif.network_id for vif in self._vifs.values()} | self._routers.networks

    def plugged(self) -> dict[str, Vif]:
        return dict(self._vifs)

    def apply_routers(self, wanted: HostRouters) -> list[str]:
        self._routers = wanted
        return []

    def failed_routers(self) -> list[str]:
        return []

    def on_change(self, tell: Callable[[], None]) -> None:
        """Nobody else changes it."""

    def repair(self) -> list[str]:
        return []
