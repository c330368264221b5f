"""The network on a Linux host, as the compute agent sees it: plug, unplug, plugged, repair.

A port is recorded before anything of it is made and forgotten after the last of it is gone, so what a
kill -9 leaves is always found (plugged()). Per network one lock; what all networks share has its own.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from msgspec import structs

from kilonova import log
from kilonova.config import Config
from kilonova.domain.errors import BuildFailed, KilonovaError, Unavailable
from kilonova.domain.network import NetworkState, PlugKind, PortSecurity, Vif
from kilonova.domain.routers import HostRouters
from kilonova.network.base import NO_DEEDS, MetadataDeeds, MetadataLookup
from kilonova.network.host import dhcp, links, linux, names, records
from kilonova.network.host.findings import Findings
from kilonova.network.host.forwarding import Forwarding
from kilonova.network.host.knowledge import Knowledge
from kilonova.network.host.metadata import MetadataServer
from kilonova.network.host.perimeter import Perimeter
from kilonova.network.host.plan import NetworkPlan, check, check_security, transit_count, transit_link
from kilonova.network.host.plug import Plug, make
from kilonova.network.host.records import Records
from kilonova.network.host.routers import Routers
from kilonova.network.host.ruleset import Ruleset
from kilonova.network.host.segment import Segment
from kilonova.network.host.tunnels import Tunnels
from kilonova.network.host.watch import Changes, Loop

_log = log.get("network.host")

_PLUGS: dict[str, PlugKind] = {kind: kind for kind in get_args(PlugKind)}

_MEND_INTERVAL = 5.0
"""A DHCP server that dies again within these seconds waits for the next repair()."""


class LinuxHost:
    """``network.base.HostNetwork`` for real: needs root, iproute2's namespaces, nft and dnsmasq."""

    follows = True

    def __init__(self, config: Config, folder: Path) -> None:
        self._config = config.network
        self._folder = folder
        self._top = Path(config.state).absolute()
        self._records = Records(folder)
        self._knowledge = Knowledge(folder)
        self._knowledge.keep_only(self._records.vifs())
        forwarding = Forwarding(folder / "ip_forward")
        self.plug_kind = config.network.plug
        self._plug = self._make_plug(config.network.plug)
        self._perimeter = Perimeter(
            config.network,
            forwarding,
            folder,
            self._records.vifs(),
            self._knowledge,
            self._records.zone,
            self._plug,
        )
        self._findings = Findings(folder)
        self._routers = Routers(
            config.network,
            folder,
            forwarding,
            self._plug,
            self._held,
            self._findings.failed,
            self._watch,
        )
        self._tunnels = Tunnels(config.network, folder, self._plug)
        self.tunnel_address = self._tunnels.address
        self._segments: dict[str, Segment] = {}
        self._segments_lock = threading.Lock()
        self._running: _Running | None = None
        self._tidied = False
        self._tell_changed: Callable[[], None] = lambda: None
        self._mended: deque[str] = deque()
        """What was mended between two calls of repair(), which tells it. It is among the findings already."""
        self._last_mend: dict[str, float] = {}
        self._without_dhcp: set[str] = set()
        """Networks whose DHCP server died again too soon: for the next repair()."""

    def _make_plug(self, kind: PlugKind) -> Plug:
        def rules() -> Ruleset:
            known = self._knowledge.now
            return Ruleset([known.applied(vif) for vif in self._records.vifs().values()], known)

        return make(kind, self._config, self._folder, rules, self._records.zone)

    def start(self, metadata: MetadataLookup, deeds: MetadataDeeds = NO_DEEDS) -> None:
        self._running = _Running(metadata, self._port_of, self._config.dhcp_domain, deeds, self._changed)
        dhcp.open_way(self._folder, self._top)
        self._routers.start()
        self._mended.extend(self.repair())

    def on_change(self, tell: Callable[[], None]) -> None:
        self._tell_changed = tell
        self._plug.on_change(tell)

    def _changed(self) -> None:
        self._tell_changed()

    def _watch(self) -> Changes:
        return Changes(self._require_running().loop, self._changed)

    def stop(self) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        running.mender.shutdown(wait=True)
        for segment in list(self._segments.values()):
            with segment.lock:
                segment.close()
        self._segments.clear()
        self._routers.stop()
        running.close()
        self._plug.stop()

    def plug(self, vif: Vif) -> None:
        check(vif)
        with self._segment(vif.network_id) as segment:
            before = self._records.vif(vif.port_id)
            self._records.put(vif)
            # Rules first: no moment without anti-spoofing, nor with an ear of the host's at the switch.
            self._perimeter.admit(vif)
            self._ensure_network(segment)
            if before and [own.ip for own in before.addresses] != [own.ip for own in vif.addresses]:
                segment.release(before, self._records.folder(vif.network_id))
            self._join(vif)
            if before:
                self._perimeter.end_connections(before, _ips(before) - _ips(vif))

    def unplug(self, port_id: str) -> None:
        vif = self._records.vif(names.checked("port", port_id))
        if vif is None:
            self._remove_port(port_id)
            self._knowledge.forget(port_id)
            return
        with self._segment(vif.network_id) as segment:
            linux.silence(vif.tap)
            linux.together(
                lambda: self._remove_port(port_id),
                lambda: self._perimeter.end_connections(vif, _ips(vif)),
                lambda: self._depart(segment, vif),
            )
            self._records.remove(port_id)
            self._knowledge.forget(port_id)

    def _depart(self, segment: Segment, vif: Vif) -> None:
        """The network goes on without this port, or, if it was the last one, goes."""
        self._perimeter.dismiss(vif)
        plan = self._plan(vif.network_id, without=vif.port_id)
        folder = self._records.folder(vif.network_id)
        if plan:
            segment.follow(plan, folder)
            segment.release(vif, folder)
        else:
            self._leave(vif.network_id)
            segment.remove(folder, self._routers.uses(vif.network_id))
            self._records.remove_network(vif.network_id)

    def apply_routers(self, wanted: HostRouters) -> list[str]:
        """``network.base.HostNetwork``. Nobody has a gateway's address twice: networks give theirs up first,
        and take them back last."""
        before, after = self._routers.gateways, wanted.gateways
        both = {
            network_id: sorted({*before.get(network_id, []), *after.get(network_id, [])})
            for network_id in before.keys() | after.keys()
        }
        done = self._set_gateways(both)
        led = self._routers.networks().keys()
        done += self._routers.apply(wanted.routers)
        done += self._join_others(led | self._routers.networks().keys())
        return done + self._set_gateways(after)

    def failed_routers(self) -> list[str]:
        return self._routers.failing()

    def _set_gateways(self, gateways: dict[str, list[str]]) -> list[str]:
        """These are routers'; the networks with guests here follow."""
        before = self._routers.gateways
        if gateways == before:
            return []
        self._routers.gateways = gateways
        done = []
        for network_id in sorted(before.keys() | gateways.keys()):
            if before.get(network_id, []) != gateways.get(network_id, []):
                done += self._attempt(lambda one=network_id: self._mend(one, True))  # type: ignore[misc]
        return done

    @contextmanager
    def _held(self, network_id: str) -> Iterator[bool]:
        """Nobody else changes what of that network is here; whether guests are on it."""
        with self._segment(network_id):
            yield bool(self._records.vifs_of(network_id))

    def _join_others(self, network_ids: Collection[str]) -> list[str]:
        """These networks are joined to their parts on other hosts, those that are (still) here."""
        done = []
        for network_id in sorted(network_ids):
            done += self._attempt(lambda one=network_id: self._join_other(one))  # type: ignore[misc]
        return done

    def _join_other(self, network_id: str) -> list[str]:
        with self._segment(network_id), linux.netlink() as ip:
            plan, led = self._plan(network_id), self._routers.networks()
            if plan:
                done = self._tunnels.ensure(ip, network_id, plan.mtu, plan.addresses)
            elif network_id in led:
                done = self._tunnels.ensure(ip, network_id, led[network_id], [])
            else:
                done = self._tunnels.remove(network_id)
        return [f"network {network_id}: {line}" for line in done]

    def _addresses_of(self, network_id: str) -> list[str]:
        """The namespace's own."""
        plan = self._plan(network_id)
        return plan.addresses if plan else []

    def _leave(self, network_id: str) -> None:
        """The last guest leaves: without a router here, so does the network."""
        if self._tunnels.concerns(network_id) and network_id not in self._routers.networks():
            self._tunnels.remove(network_id)

    def networks(self) -> set[str]:
        return {vif.network_id for vif in self._records.vifs().values()} | self._routers.networks().keys()

    def refresh(self, state: NetworkState, asked: float) -> None:
        state = structs.replace(state, ports=[_checked(port) for port in state.ports])
        before = self._guarded()
        self._knowledge.learn(state, asked)
        self._perimeter.refresh()
        self._plug.refresh()
        for line in self._join_others(self._tunnels.learn(state.tunnels, asked, self.networks())):
            _log.info("tunnel_changed", what=line)
        for port_id in before ^ self._guarded():
            self._attempt(lambda one=port_id: self._join_again(one))  # type: ignore[misc]

    def _guarded(self) -> set[str]:
        """The ports with port security."""
        applied = map(self._knowledge.now.applied, self._records.vifs().values())
        return {vif.port_id for vif in applied if vif.port_security}

    def users(self, ids: set[str]) -> set[str]:
        return self._knowledge.now.using(self._records.vifs().values(), ids)

    def plugged(self) -> dict[str, Vif]:
        return self._records.vifs()

    def repair(self) -> list[str]:
        told = [self._mended.popleft() for _ in range(len(self._mended))]
        mended = self._repair()
        self._findings.mended(mended)
        return told + mended

    def _repair(self) -> list[str]:
        changed = any([self._require_running().changes.any(), self._plug.changed()])
        mended = self._attempt(self._change_plug)
        # What a tunnel may have left open is ruled first.
        mended += self._attempt(lambda: self._tunnels.begin(self._addresses_of))
        mended += self._attempt(self._tidy)
        mended += self._attempt(lambda: self._perimeter.ensure(rules=changed))
        for network_id in sorted({vif.network_id for vif in self._records.vifs().values()}):
            mended += self._attempt(lambda one=network_id: self._mend(one, changed))  # type: ignore[misc]
        led = self._routers.networks().keys()
        mended += self._attempt(lambda: self._routers.repair(changed))
        left = led - self._routers.networks().keys()
        mended += self._join_others(led if changed else left)
        mended += self._attempt(lambda: self._tunnels.repair(changed))
        mended += self._attempt(self._plug.settle)
        return mended

    def _attempt(self, mend: Callable[[], list[str]]) -> list[str]:
        """What cannot be mended now must not keep the rest from it; the next repair() tries again."""
        try:
            return mend()
        except KilonovaError as error:
            if self._running:
                self._running.changes.forget()
            _log.warning("repair failed, will be tried again", error=str(error))
            self._findings.failed(error.message)
            return []

    def _mend(self, network_id: str, everything: bool) -> list[str]:
        with self._segment(network_id) as segment:
            vifs = self._records.vifs_of(network_id)
            look = everything or segment.changed() or network_id in self._without_dhcp
            self._without_dhcp.discard(network_id)
            if not vifs:  # nor is a folder made for a network that left
                return []
            dhcp.bound_log(self._records.folder(network_id))
            if not look:
                return []
            mended = self._attempt(lambda: self._ensure_network(segment))
            for vif in vifs:
                mended += self._attempt(lambda one=vif: self._mend_port(one))  # type: ignore[misc]
        return [f"network {network_id}: {line}" for line in mended]

    def _mend_port(self, vif: Vif) -> list[str]:
        if not self._perimeter.holds(vif.port_id):  # an unplug that failed halfway let it go
            self._perimeter.admit(vif)
        return self._join(vif)

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
        self._findings.mended(lines)
        self._mended.extend(lines)

    def _ensure_network(self, segment: Segment) -> list[str]:
        plan = self._plan(segment.network_id)
        assert plan is not None, "called for a network that has a port"
        done = segment.ensure(plan, self._records.folder(segment.network_id))
        if self._tunnels.concerns(segment.network_id):
            with linux.netlink() as ip:
                done += self._tunnels.ensure(ip, segment.network_id, plan.mtu, plan.addresses)
        return done

    def _join(self, vif: Vif) -> list[str]:
        with linux.netlink() as ip:
            done = linux.ensure_tap(vif.tap)
            return done + self._plug.ensure_port(ip, self._knowledge.now.applied(vif))

    def _join_again(self, port_id: str) -> list[str]:
        """By what is known of the port now, if it is plugged."""
        vif = self._records.vif(port_id)
        if vif is None:
            return []
        with self._segment(vif.network_id):
            plugged = self._records.vif(port_id)
            return self._join(plugged) if plugged and self._perimeter.holds(port_id) else []

    def _remove_port(self, port_id: str) -> None:
        devices = self._plug.remove_port(port_id)
        with linux.making(f"removing {names.tap(port_id)}"):
            linux.delete_links([*devices, names.tap(port_id)])

    def _change_plug(self) -> list[str]:
        """Another plug was chosen since the last run: what it joined is parted, and joined anew after that.
        The taps and routers stay, so running guests hardly notice."""
        file, now = self._folder / "plug", self._config.plug
        before = (records.read(file) or b"bridge").decode()
        if before == now:
            return []
        old = self._make_plug(_PLUGS[before])
        try:
            for port_id in self._records.vifs():
                linux.delete_links(old.remove_port(port_id))
            for network_id in self._tunnels.networks():
                old.remove_tunnel(network_id)
            old.keep_routers([])
            for network_id in self._records.networks() | self._routers.used():
                old.remove_network(network_id)
        finally:
            old.stop()
        records.write(file, now.encode())
        return []

    def _tidy(self) -> list[str]:
        """What a crash left of networks without ports, and of ports without records."""
        if self._tidied:
            return []
        for network_id in self._records.networks():
            self._remove_if_empty(network_id)
        for network_id in self._tunnels.networks() - self.networks():
            with self._segment(network_id):
                self._tunnels.remove(network_id)
        self._plug.sweep(
            lambda: self._records.networks() | self.networks(), self._records.vifs, self._routers.links
        )
        self._tidied = True
        return []

    def _remove_if_empty(self, network_id: str) -> None:
        """A crash came between a network's last port and its folder."""
        with self._segment(network_id) as segment:
            if not self._records.vifs_of(network_id):
                self._leave(network_id)
                segment.remove(self._records.folder(network_id), self._routers.uses(network_id))
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
        plan = NetworkPlan(
            network_id=network_id,
            vifs=vifs,
            implicit_gateway=self._config.implicit_gateway,
            routers_gateways=self._routers.gateways.get(network_id, []),
        )
        if not plan.routed:
            return plan
        cidr = self._config.transit_cidr
        index = self._records.transit(network_id, transit_count(cidr), lambda at: self._is_free(cidr, at))
        return structs.replace(plan, transit=transit_link(cidr, index))

    @staticmethod
    def _is_free(transit_cidr: str, index: int) -> bool:
        return links.is_free(transit_link(transit_cidr, index))

    @contextmanager
    def _segment(self, network_id: str) -> Iterator[Segment]:
        """The network's segment, locked. One that has no port when the block ends is forgotten."""
        while True:
            segment = self._known_segment(network_id)
            with segment.lock:
                if self._segments.get(network_id) is not segment:
                    continue  # forgotten while this thread waited for it
                try:
                    yield segment
                finally:
                    if not self._records.vifs_of(network_id):
                        self._forget_segment(segment)
                return

    def _forget_segment(self, segment: Segment) -> None:
        segment.close()
        with self._segments_lock:
            self._segments.pop(segment.network_id, None)
        self._last_mend.pop(segment.network_id, None)
        self._without_dhcp.discard(segment.network_id)

    def _known_segment(self, network_id: str) -> Segment:
        running = self._require_running()
        with self._segments_lock:
            segment = self._segments.get(network_id)
            if segment is None:
                segment = Segment(
                    network_id,
                    self._config,
                    self._plug,
                    running.metadata,
                    running.loop,
                    self._dhcp_ended,
                    self._watch,
                )
                self._segments[network_id] = segment
        return segment

    def _require_running(self) -> _Running:
        if self._running is None:
            raise Unavailable("the host's network is not started")
        return self._running


def _ips(vif: Vif) -> set[str]:
    return {address.ip for address in vif.addresses}


def _checked(port: PortSecurity) -> PortSecurity:
    """What was told of the port, or, if that must not come near a rule, that it is closed."""
    names.checked("port", port.port_id)
    try:
        check_security(port)
    except BuildFailed as error:
        _log.error("left_closed", what=f"port {port.port_id}", reason=error.message)
        return PortSecurity(port_id=port.port_id, port_security=True)
    return port


class _Running:
    """What lives between start() and stop()."""

    def __init__(
        self,
        lookup: MetadataLookup,
        port_of: Callable[[str, str], str | None],
        dhcp_domain: str,
        deeds: MetadataDeeds,
        changed: Callable[[], None],
    ) -> None:
        self.loop = Loop("network")
        self.loop.start()
        self.metadata = MetadataServer(lookup, port_of, self.loop, dhcp_domain, deeds)
        self.changes = Changes(self.loop, changed)
        self.mender = ThreadPoolExecutor(1, thread_name_prefix="network-mender")

    def close(self) -> None:
        self.metadata.stop()
        self.changes.close()
        self.loop.stop()
