"""The routers of this host: made as they are told, mended, removed.

A router's state is recorded before anything of it is made and forgotten after the last of it is gone, so what
a kill -9 leaves is always found. One lock for all of them: they change seldom.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Set
from contextlib import AbstractContextManager
from pathlib import Path

from kilonova import log
from kilonova.config import Network
from kilonova.domain.errors import KilonovaError
from kilonova.domain.routers import RouterGateway, RouterState
from kilonova.network.host import linux, names, router_plan
from kilonova.network.host.external import External
from kilonova.network.host.forwarding import Forwarding
from kilonova.network.host.plug import Plug
from kilonova.network.host.router import Router
from kilonova.network.host.router_plan import Device
from kilonova.network.host.router_records import Record, RouterRecords
from kilonova.network.host.watch import Changes

_log = log.get("network.routers")

_PATIENCE = 30.0
"""Seconds for which a router is tried before others hear that it cannot be made here."""


class Routers:
    """``network(network_id)``: holds what of a network is on this host, and says whether guests need it too.
    ``failed(why)`` hears of what could not be done; ``watch()`` listens in the caller's namespace."""

    def __init__(
        self,
        config: Network,
        folder: Path,
        forwarding: Forwarding,
        plug: Plug,
        network: Callable[[str], AbstractContextManager[bool]],
        failed: Callable[[str], None],
        watch: Callable[[], Changes],
    ) -> None:
        self._tell_failed = failed
        self._watch = watch
        self._plug = plug
        self._network = network
        self._store = RouterRecords(folder)
        self._adverts = folder / "adverts"
        self._records = self._store.load()
        self._gateways_of_routers = self._store.gateways()
        self._external = External(config, folder, forwarding)
        self._routers: dict[str, Router] = {}
        self._lock = threading.Lock()
        self._ruled = bool(self._records)
        """Whether the host's tables may be there."""
        self._look_again = False
        """Something failed the last time."""
        self._failing: dict[str, float] = {}
        """Routers that could not be made → since when (time.monotonic())."""
        self._leaving: set[str] = set()
        """Routers that are not this host's any more."""
        self._unsettled: set[str] = set(self._records)
        """Routers whose record names what may be there and is not theirs any more."""
        self._unconfirmed: set[str] = set()
        """Routers of an earlier run that are not there."""

    def start(self) -> None:
        """What an earlier run left of its routers is waited for; the first repair() makes it right. One that
        went, with the machine most likely, may be another host's by now: it is not made, and its addresses
        are not announced, before apply() is told that it is still this one's."""
        self._unconfirmed = {
            router_id for router_id in self._records if not linux.namespace_exists(names.router(router_id))
        }
        if self._records:
            self._external.expect()

    @property
    def gateways(self) -> dict[str, list[str]]:
        """Network id → gateways' addresses that are routers', here or elsewhere."""
        return self._gateways_of_routers

    @gateways.setter
    def gateways(self, gateways: dict[str, list[str]]) -> None:
        self._store.put_gateways(gateways)
        self._gateways_of_routers = gateways

    def uses(self, network_id: str) -> bool:
        """Whether a router is, or may still be, on that network."""
        return network_id in self.used()

    def used(self) -> set[str]:
        """The networks that a router here is, or may still be, on."""
        return {network_id for record in list(self._records.values()) for network_id in record.networks}

    def links(self) -> list[str]:
        """Devices on the host of every interface."""
        return _links([record.state for record in list(self._records.values())])

    def networks(self) -> dict[str, int]:
        """Those that a router here joins → their MTU."""
        states = [state for router_id, state in self.present().items() if router_id not in self._unconfirmed]
        return {interface.network_id: interface.mtu for state in states for interface in state.interfaces}

    def apply(self, states: list[RouterState]) -> list[str]:
        """These are the routers of this host, and those that changed as they should be; a line for each thing
        that was made for it. What became of the others meanwhile repair() sees, which says what was wrong.

        What fails for one is logged, does not keep the others from it, and is tried again by repair().
        """
        with self._lock:
            for state in states:
                self._attempt(lambda one=state: self._record(one), state.id)  # type: ignore[misc]
            wanted = {state.id for state in states}
            self._unconfirmed = set()
            self._leaving = self._records.keys() - wanted
            self._failing = {key: at for key, at in self._failing.items() if key in wanted}
            return self._remove_leaving() + self._ensure_all(self._unsettled, look=False)

    def repair(self, look: bool) -> list[str]:
        """``look``: something of the host has changed."""
        with self._lock:
            return self._remove_leaving() + self._ensure_all(self._records.keys(), look)

    def present(self) -> dict[str, RouterState]:
        return {router_id: record.state for router_id, record in list(self._records.items())}

    def failing(self) -> list[str]:
        """Those that could not be made for longer than a switch or nft is away for a moment."""
        since = time.monotonic() - _PATIENCE
        return sorted(router_id for router_id, at in list(self._failing.items()) if at <= since)

    def stop(self) -> None:
        with self._lock:
            for router in self._routers.values():
                router.close()
            self._routers.clear()

    def _record(self, state: RouterState) -> list[str]:
        """Before anything is made: what is there, and what will be."""
        router_plan.check(state)
        before = self._records.get(state.id)
        if before is not None and before.state == state:
            return []
        own = self._of(state)
        record = Record(
            state=state,
            networks=sorted({*own.networks, *(before.networks if before else [])}),
            external=sorted({*own.external, *(before.external if before else [])}),
        )
        self._store.put(record)
        self._records[state.id] = record
        self._unsettled.add(state.id)
        return []

    def _of(self, state: RouterState) -> Record:
        """The record of a router that has what its state says and nothing else."""
        gateways = [state.gateway] if state.gateway else []
        return Record(
            state=state,
            networks=sorted({interface.network_id for interface in state.interfaces}),
            external=[self._external.bridge(gateway.network_id) for gateway in gateways],
        )

    def _remove_leaving(self) -> list[str]:
        done = []
        for router_id in sorted(self._leaving):
            done += self._attempt(lambda one=router_id: self._remove(one))  # type: ignore[misc]
        return done

    def _ensure_all(self, which: Set[str], look: bool) -> list[str]:
        """The host's rules first: no router is joined to anything before them."""
        if not self._records:
            if self._ruled:
                self._external.remove_rules()
                self._ruled = False
            return []
        look = look or bool(self._unsettled) or self._look_again or not self._ruled
        if self._records.keys() <= which:  # else what failed is not among them, perhaps
            self._look_again = False
        self._ruled = True
        try:
            done = self._external.ensure_rules(self._gateways(), self.links(), look)
        except KilonovaError as error:
            self._failed(error, *(self._records.keys() - self._leaving))
            return []
        here = which - self._leaving - self._unconfirmed
        for record in [one for router_id, one in self._records.items() if router_id in here]:
            router_id = record.state.id
            done += self._attempt(lambda one=record: self._ensure(one, look), router_id)  # type: ignore[misc]
        return done

    def _ensure(self, record: Record, look: bool) -> list[str]:
        state = record.state
        plan = router_plan.plan(state, self._external.shared_bridge)
        lines = self._external.ensure_bridge(state.gateway) if state.gateway and look else []
        lines += self._router(state.id).ensure(plan, look)
        if state.id in self._unsettled:
            own = self._of(state)
            self._release(record, own)
            if own != record:
                self._store.put(own)
                self._records[state.id] = own
            self._unsettled.discard(state.id)
        self._failing.pop(state.id, None)
        return [f"router {state.id}: {line}" for line in lines]

    def _remove(self, router_id: str) -> list[str]:
        record = self._records[router_id]
        self._router(router_id).remove()
        self._release(record, Record(state=record.state))
        self._store.remove(router_id)
        del self._records[router_id], self._routers[router_id]
        self._unsettled.discard(router_id)
        self._leaving.discard(router_id)
        return [f"router {router_id}: removed"]

    def _release(self, record: Record, kept: Record) -> None:
        """What only this router needed, and needs no more, is gone."""
        others = [one for one in self._records.values() if one.state.id != record.state.id]
        states = [one.state for one in (*others, kept) if one.networks]
        self._plug.keep_routers(_links(states))
        for network_id in sorted(set(record.networks) - set(kept.networks)):
            with self._network(network_id) as needed:
                if not needed and not any(network_id in other.networks for other in others):
                    self._plug.remove_network(network_id)
        for name in sorted(set(record.external) - set(kept.external)):
            if not any(name in other.external for other in others):
                self._external.remove_bridge(name)

    def _router(self, router_id: str) -> Router:
        if router_id not in self._routers:
            self._routers[router_id] = Router(router_id, self._join, self._adverts / router_id, self._watch)
        return self._routers[router_id]

    def _join(self, space: str, device: Device) -> list[str]:
        """The device's end on the host is where it should be."""
        with linux.netlink() as ip:
            if device.bridge:
                return _on_external(device.link, device.mtu, device.bridge)
            with self._network(device.network_id):
                return self._plug.ensure_router(ip, space, device)

    def _gateways(self) -> list[RouterGateway]:
        return [record.state.gateway for record in self._records.values() if record.state.gateway]

    def _attempt(self, work: Callable[[], list[str]], *routers: str) -> list[str]:
        try:
            return work()
        except KilonovaError as error:
            self._failed(error, *routers)
            return []

    def _failed(self, error: KilonovaError, *routers: str) -> None:
        """``routers``: those that do not work for it."""
        self._look_again = True
        for router_id in routers:
            self._failing.setdefault(router_id, time.monotonic())
        _log.warning("router_failed", error=str(error))
        self._tell_failed(error.message)


def _on_external(link: str, mtu: int, bridge: str) -> list[str]:
    master = linux.find(bridge)
    if master is None:
        return []  # the next look makes it
    return linux.ensure_set(link, mtu=mtu, master=master.index)


def _links(states: Iterable[RouterState]) -> list[str]:
    return [names.router_link(one.port_id) for state in states for one in state.interfaces]
