"""Keeps the host's network as the records have it: asks the conductor what changed, one question at a time.

Told of a change, at each start and each minute, it asks again for the ports concerned and gives the answer to
the host's network. What was told while an answer was under way is asked for again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Set

from kilonova import log
from kilonova.bus.base import quick
from kilonova.compute.parts import Parts
from kilonova.domain.errors import KilonovaError
from kilonova.domain.messages import FromHost, NetworkChanged, NetworkQuery
from kilonova.domain.network import NetworkState, Vif
from kilonova.domain.routers import HostRouters

_RETRY = 1.0
"""Seconds until a question is asked again that nobody answered."""
_KEPT = 120.0
"""Seconds for which it is remembered what was told: longer than an answer can be under way."""

_log = log.get("network.refresh")

Learn = Callable[[NetworkState | None, float], None]
"""Refresher.learn(): takes what was asked of ports, and when."""


def learn_of_new(parts: Parts, learn: Learn, vifs: list[Vif]) -> None:
    """Before a port comes to this host that was not here: what it may let pass."""
    new = {vif.port_id for vif in vifs} - parts.network.plugged().keys()
    if new and parts.network.follows:
        asked = time.monotonic()
        query = NetworkQuery(host=parts.host, ports=sorted(new))
        learn(parts.ask("network_state", query, NetworkState), asked)


class Refresher:
    """Its thread begins with the first change. For a network that does not follow it does nothing."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._changed = threading.Condition()
        self._dirty: set[str] = set()
        self._dirty_networks: set[str] = set()
        self._routers_dirty = False
        self._routers = threading.Lock()
        """One asks and applies at a time: nobody applies an older answer after a newer one."""
        self._told: dict[str, float] = {}
        """Group, port or network → when it was said to have changed."""
        self._closing = False
        self._thread: threading.Thread | None = None

    @quick
    def network_changed(self, message: NetworkChanged) -> None:
        """These groups and ports are not as they were, nor on which other hosts these networks are."""
        if not self._parts.network.follows:
            return
        now = time.monotonic()
        with self._changed:
            self._told = {key: at for key, at in self._told.items() if now - at < _KEPT}
            self._told |= dict.fromkeys([*message.groups, *message.ports, *message.networks], now)
        ports = set(message.ports) | self._parts.network.users(set(message.groups))
        self._look_again(ports, set(message.networks), message.routers)

    def learn(self, state: NetworkState | None, asked: float) -> None:
        """The answer to what was asked then, for ports that will be plugged now. What has changed since is
        asked for again: whoever was told of it did not know these ports."""
        if state is None:
            return
        self._parts.network.refresh(state, asked)
        with self._changed:
            since = {key for key, at in self._told.items() if at >= asked}
        if since & {*state.groups, *state.members, *(port.port_id for port in state.ports)}:
            self._look_again({port.port_id for port in state.ports})
        self._look_again(set(), since & state.tunnels.keys())

    def compare(self) -> None:
        """Ask for all ports of the host, its networks and its routers now. Unavailable: nobody answers."""
        network = self._parts.network
        if network.follows:
            self._pull(set(network.plugged()), network.networks())
            self._pull_routers()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _look_again(self, ports: Set[str], networks: Set[str] = frozenset(), routers: bool = False) -> None:
        with self._changed:
            self._dirty |= ports
            self._dirty_networks |= networks
            self._routers_dirty |= routers
            if not (self._dirty or self._dirty_networks or self._routers_dirty) or self._closing:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="network-refresh", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _run(self) -> None:
        while (asked := self._next()) is not None:
            ports, networks, routers = asked
            try:
                self._pull(ports, networks)
                if routers:
                    self._pull_routers()
            except KilonovaError as error:
                _log.warning("refresh_failed", error=error.message)
                self._look_again(ports, networks, routers)
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, _RETRY)
            except Exception:  # noqa: BLE001 - the loop must go on; each minute all is compared
                _log.exception("refresh_failed")

    def _next(self) -> tuple[set[str], set[str], bool] | None:
        """The ports and networks that are to be asked for, and whether the routers are."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._dirty or self._dirty_networks or self._routers_dirty or self._closing
            )
            ports, self._dirty = self._dirty, set()
            networks, self._dirty_networks = self._dirty_networks, set()
            routers, self._routers_dirty = self._routers_dirty, False
            return None if self._closing else (ports, networks, routers)

    def _pull_routers(self) -> None:
        with self._routers:
            wanted = self._parts.ask("host_routers", FromHost(host=self._parts.host), HostRouters)
            self._pull(set(), wanted.networks)
            for line in self._parts.network.apply_routers(wanted):
                _log.info("routers_changed", what=line)

    def _pull(self, ports: set[str], networks: set[str]) -> None:
        """Who takes no tunnels asks nothing of networks."""
        if self._parts.network.tunnel_address is None:
            networks = set()
        if not ports and not networks:
            return
        asked = time.monotonic()
        query = NetworkQuery(host=self._parts.host, ports=sorted(ports), networks=sorted(networks))
        self._parts.network.refresh(self._parts.ask("network_state", query, NetworkState), asked)
