"""The network on a Linux host, as the compute agent sees it: plug, unplug, plugged, repair.

A port is recorded before anything of it is made and forgotten after the last of it is gone, so what a
kill -9 leaves is always found (plugged()). Per network one lock; what all networks share has its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from kilonova import log
from kilonova.config import Config
from kilonova.domain.errors import KilonovaError, Unavailable
from kilonova.domain.network import Vif
from kilonova.network.base import NO_DEEDS, MetadataDeeds, MetadataLookup
from kilonova.network.host import dhcp, links, linux, names
from kilonova.network.host.metadata import MetadataServer
from kilonova.network.host.perimeter import Perimeter
from kilonova.network.host.plan import NetworkPlan, check, transit_count, transit_link
from kilonova.network.host.records import Records
from kilonova.network.host.segment import Segment
from kilonova.network.host.watch import Changes, Loop

_log = log.get("network.host")

_MEND_INTERVAL = 5.0
"""A DHCP server that dies again within these seconds waits for the next repair()."""


class LinuxHost:
    """``network.base.HostNetwork`` for real: needs root, iproute2's namespaces, nft and dnsmasq."""

    def __init__(self, config: Config, folder: Path) -> None:
        self._config = config.network
        self._folder = folder
        self._top = Path(config.state).absolute()
        self._records = Records(folder)
        self._perimeter = Perimeter(config.network, folder, self._records.vifs())
        self._segments: dict[str, Segment] = {}
        self._segments_lock = threading.Lock()
        self._running: _Running | None = None
        self._mended: list[str] = []
        self._last_mend: dict[str, float] = {}
        self._without_dhcp: set[str] = set()
        """Networks whose DHCP server died again too soon: for the next repair()."""

    def start(self, metadata: MetadataLookup, deeds: MetadataDeeds = NO_DEEDS) -> None:
        self._running = _Running(metadata, self._port_of, self._config.dhcp_domain, deeds)
        dhcp.open_way(self._folder, self._top)
        for network_id in self._records.networks():
            self._remove_if_empty(network_id)
        self._perimeter.start()
        self._mended += self.repair()

    def stop(self) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        running.mender.shutdown(wait=True)
        for segment in list(self._segments.values()):
            with segment.lock:
                segment.close()
        self._segments.clear()
        running.close()

    def plug(self, vif: Vif) -> None:
        check(vif)
        with self._segment(vif.network_id) as segment:
            before = self._records.vif(vif.port_id)
            self._records.put(vif)
            self._ensure_network(segment)
            if before and before.addresses != vif.addresses:
                segment.release(before)
            self._ensure_port(vif)

    def unplug(self, port_id: str) -> None:
        vif = self._records.vif(names.checked("port", port_id))
        if vif is None:
            self._remove_tap(port_id)
            return
        with self._segment(vif.network_id) as segment:
            with linux.netlink() as ip:
                linux.silence(ip, vif.tap)
            linux.together(lambda: self._remove_tap(port_id), lambda: self._depart(segment, vif))
            self._records.remove(port_id)

    def _depart(self, segment: Segment, vif: Vif) -> None:
        """The network goes on without this port, or, if it was the last one, goes."""
        self._perimeter.dismiss(vif)
        plan = self._plan(vif.network_id, without=vif.port_id)
        folder = self._records.folder(vif.network_id)
        if plan:
            segment.ensure(plan, folder)
            segment.release(vif)
        else:
            segment.remove(folder)
            self._records.remove_network(vif.network_id)

    def plugged(self) -> dict[str, Vif]:
        return self._records.vifs()

    def repair(self) -> list[str]:
        mended, self._mended = self._mended, []
        changed = self._require_running().changes.any()
        mended += self._attempt(lambda: self._perimeter.ensure(rules=changed))
        for network_id in sorted({vif.network_id for vif in self._records.vifs().values()}):
            mended += self._attempt(lambda one=network_id: self._mend(one, changed))  # type: ignore[misc]
        return mended

    def _attempt(self, mend: Callable[[], list[str]]) -> list[str]:
        """What cannot be mended now must not keep the rest from it; the next repair() tries again."""
        try:
            return mend()
        except KilonovaError as error:
            if self._running:
                self._running.changes.forget()
            _log.warning("repair failed, will be tried again", error=str(error))
            return []

    def _mend(self, network_id: str, everything: bool) -> list[str]:
        with self._segment(network_id) as segment:
            vifs = self._records.vifs_of(network_id)
            look = everything or segment.changed() or network_id in self._without_dhcp
            self._without_dhcp.discard(network_id)
            if not vifs or not look:
                return []
            mended = self._ensure_network(segment)
            for vif in vifs:
                mended += self._ensure_tap(vif)
        return [f"network {network_id}: {line}" for line in mended]

    def _dhcp_ended(self, network_id: str) -> None:
        """A DHCP server died: mend at once, but not in a circle."""
        running = self._running
        now = time.monotonic()
        if running and now - self._last_mend.get(network_id, -_MEND_INTERVAL) >= _MEND_INTERVAL:
            self._last_mend[network_id] = now
            running.mender.submit(self._mend_now, network_id)
        else:
            self._without_dhcp.add(network_id)

    def _mend_now(self, network_id: str) -> None:
        lines = self._attempt(lambda: self._mend(network_id, everything=True))
        for line in lines:
            _log.warning("mended", what=line)
        self._mended += lines

    def _ensure_network(self, segment: Segment) -> list[str]:
        plan = self._plan(segment.network_id)
        assert plan is not None, "called for a network that has a port"
        return segment.ensure(plan, self._records.folder(segment.network_id))

    def _ensure_port(self, vif: Vif) -> None:
        """Rules first, then onto the bridge: no moment without anti-spoofing."""
        with linux.netlink() as ip:
            linux.ensure_tap(ip, vif.tap)
        self._perimeter.admit(vif)
        self._ensure_tap(vif)

    def _ensure_tap(self, vif: Vif) -> list[str]:
        with linux.netlink() as ip:
            done = linux.ensure_tap(ip, vif.tap)
            master = links.index_of(ip, vif.bridge)
            return done + linux.ensure_on_bridge(ip, vif.tap, mtu=vif.mtu, master=master)

    def _remove_tap(self, port_id: str) -> None:
        with linux.netlink() as ip, linux.making(f"removing {names.tap(port_id)}"):
            linux.delete_link(ip, names.tap(port_id))

    def _remove_if_empty(self, network_id: str) -> None:
        """A crash came between a network's last port and its folder."""
        with self._segment(network_id) as segment:
            if not self._records.vifs_of(network_id):
                segment.remove(self._records.folder(network_id))
                self._records.remove_network(network_id)

    def _port_of(self, network_id: str, address: str) -> str | None:
        """Whose own address that is."""
        for vif in self._records.vifs_of(network_id):
            if any(own.ip == address for own in vif.addresses):
                return vif.port_id
        return None

    def _plan(self, network_id: str, without: str | None = None) -> NetworkPlan | None:
        vifs = [vif for vif in self._records.vifs_of(network_id) if vif.port_id != without]
        if not vifs:
            return None
        plan = NetworkPlan(network_id=network_id, vifs=vifs)
        if not plan.routed:
            return plan
        cidr = self._config.transit_cidr
        index = self._records.transit(network_id, transit_count(cidr), lambda at: self._is_free(cidr, at))
        return NetworkPlan(network_id=network_id, vifs=vifs, transit=transit_link(cidr, index))

    @staticmethod
    def _is_free(transit_cidr: str, index: int) -> bool:
        with linux.netlink() as ip:
            return links.is_free(ip, transit_link(transit_cidr, index))

    @contextmanager
    def _segment(self, network_id: str) -> Iterator[Segment]:
        """The network's segment, locked."""
        running = self._require_running()
        with self._segments_lock:
            segment = self._segments.get(network_id)
            if segment is None:
                segment = Segment(network_id, self._config, running.metadata, running.loop, self._dhcp_ended)
                self._segments[network_id] = segment
        with segment.lock:
            yield segment

    def _require_running(self) -> _Running:
        if self._running is None:
            raise Unavailable("the host's network is not started")
        return self._running


class _Running:
    """What lives between start() and stop()."""

    def __init__(
        self,
        lookup: MetadataLookup,
        port_of: Callable[[str, str], str | None],
        dhcp_domain: str,
        deeds: MetadataDeeds,
    ) -> None:
        self.loop = Loop("network")
        self.loop.start()
        self.metadata = MetadataServer(lookup, port_of, self.loop, dhcp_domain, deeds)
        self.changes = Changes()
        self.mender = ThreadPoolExecutor(1, thread_name_prefix="network-mender")

    def close(self) -> None:
        self.metadata.stop()
        self.loop.stop()
        self.changes.close()
