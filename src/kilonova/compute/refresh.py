"""Keeps the host's network as the records have it: asks the conductor what changed, one question at a time.

Told of a change, at each start and each minute, it asks again for the ports concerned and gives the answer to
the host's network. What was told while an answer was under way is asked for again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Set
from typing import NamedTuple

from kilonova import log
from kilonova.bus.base import quick
from kilonova.compute.parts import Parts
from kilonova.domain.errors import KilonovaError, Unavailable
from kilonova.domain.messages import FromHost, NetworkChanged, NetworkQuery
from kilonova.domain.network import NetworkState, Vif
from kilonova.domain.routers import HostRouters

_RETRY, _LONGEST_RETRY = 1.0, 30.0
"""Seconds until a question is asked again that nobody answered; and, growing to at most, until the host tries
again what it could not do: each time it loads all its rules."""
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


class _Question(NamedTuple):
    """What is asked for: ports, networks, and whether the routers are."""

    ports: frozenset[str] = frozenset()
    networks: frozenset[str] = frozenset()
    routers: bool = False

    def and_(self, other: _Question) -> _Question:
        return _Question(
            self.ports | other.ports, self.networks | other.networks, self.routers or other.routers
        )


_NOTHING = _Question()


class Refresher:
    """Its thread begins with the first change. For a network that does not follow it does nothing."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._changed = threading.Condition()
        self._dirty = _NOTHING
        self._failed = _NOTHING
        """To be asked once more."""
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
        ports = frozenset(message.ports) | self._parts.network.users(set(message.groups))
        self._look_again(_Question(ports, frozenset(message.networks), message.routers))

    def learn(self, state: NetworkState | None, asked: float) -> None:
        """The answer to what was asked then, for ports that will be plugged now. What has changed since is
        asked for again: whoever was told of it did not know these ports."""
        if state is None:
            return
        self._parts.network.refresh(state, asked)
        with self._changed:
            since = {key for key, at in self._told.items() if at >= asked}
        if since & {*state.groups, *state.members, *(port.port_id for port in state.ports)}:
            self._look_again(_Question(frozenset(port.port_id for port in state.ports)))
        self._look_again(_Question(networks=frozenset(since & state.tunnels.keys())))

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

    def _look_again(self, asked: _Question) -> None:
        with self._changed:
            self._dirty = self._dirty.and_(asked)
            if self._dirty == _NOTHING or self._closing:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="network-refresh", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _run(self) -> None:
        pause = 0.0
        while (asked := self._next(pause)) is not None:
            try:
                self._pull(asked.ports, asked.networks)
                if asked.routers:
                    self._pull_routers()
                pause = 0.0
            except KilonovaError as error:
                _log.warning("refresh_failed", error=error.message)
                away = isinstance(error, Unavailable)
                pause = _RETRY if away else min(max(_RETRY, 2 * pause), _LONGEST_RETRY)
                self._failed = asked
            except Exception:  # noqa: BLE001 - the loop must go on; each minute all is compared
                _log.exception("refresh_failed")

    def _next(self, pause: float) -> _Question | None:
        """What is to be asked. With what failed it waits for ``pause`` seconds, or for a new word."""
        failed, self._failed = self._failed, _NOTHING
        with self._changed:
            self._changed.wait_for(
                lambda: self._dirty != _NOTHING or self._closing,
                pause if failed != _NOTHING else None,
            )
            asked, self._dirty = failed.and_(self._dirty), _NOTHING
            return None if self._closing else asked

    def _pull_routers(self) -> None:
        with self._routers:
            wanted = self._parts.ask("host_routers", FromHost(host=self._parts.host), HostRouters)
            self._pull(frozenset(), wanted.networks)
            for line in self._parts.network.apply_routers(wanted):
                _log.info("routers_changed", what=line)

    def _pull(self, ports: Set[str], networks: Set[str]) -> None:
        """Who takes no tunnels asks nothing of networks."""
        if self._parts.network.tunnel_address is None:
            networks = frozenset()
        if not ports and not networks:
            return
        asked = time.monotonic()
        query = NetworkQuery(host=self._parts.host, ports=sorted(ports), networks=sorted(networks))
        self._parts.network.refresh(self._parts.ask("network_state", query, NetworkState), asked)
