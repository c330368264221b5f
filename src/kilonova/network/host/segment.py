"""One network on this host: its namespace, gate, DHCP server and metadata, as one thing that is or is not.

Everything here runs under the segment's lock, which its owner (host.py) takes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from kilonova.config import Network
from kilonova.domain.network import Vif
from kilonova.network.host import dhcp, links, linux, names, namespace
from kilonova.network.host.metadata import MetadataServer
from kilonova.network.host.plan import NetworkPlan
from kilonova.network.host.plug import Plug
from kilonova.network.host.watch import Changes, Loop


class Segment:
    def __init__(
        self,
        network_id: str,
        config: Network,
        plug: Plug,
        metadata: MetadataServer,
        loop: Loop,
        on_dhcp_end: Callable[[str], None],
        watch: Callable[[], Changes],
    ) -> None:
        self.network_id = network_id
        self.lock = threading.Lock()
        self._config = config
        self._plug = plug
        self._metadata = metadata
        self._loop = loop
        self._on_dhcp_end = on_dhcp_end
        self._watch = watch
        self._namespace = names.namespace(network_id)
        self._changes: Changes | None = None
        self._plan: NetworkPlan | None = None
        """Of the last ensure()."""
        self._shape: object = None
        """What ensure() last put in order inside the namespace; None: look."""
        self._dhcp: tuple[int, int] | None = None
        """pid and pidfd of the DHCP server that is being watched."""

    def changed(self) -> bool:
        """Whether anything inside may not be as it was left; the next ensure() looks at all of it then."""
        if self._changes is None or self._changes.any() or not linux.namespace_exists(self._namespace):
            self._shape = None
        return self._shape is None

    def follow(self, plan: NetworkPlan, folder: Path) -> list[str]:
        """After a port left: ensure(), which looks at nothing that is to be as it was."""
        if _shape_of(plan) != self._shape:
            return self.ensure(plan, folder)
        self._plan = plan
        return self._ensure_services(plan, folder)

    def ensure(self, plan: NetworkPlan, folder: Path) -> list[str]:
        """The network works on this host; a line for each thing that had to be made."""
        with linux.netlink() as ip:
            done = self._ensure_namespace(folder)
            done += self._plug.ensure_network(ip, plan)
            done += links.ensure(ip, plan)
        if self.changed() or _shape_of(plan) != self._shape:
            done += linux.inside(self._namespace, lambda: namespace.ensure(plan))
            self._shape = _shape_of(plan)
        self._plan = plan
        done += self._ensure_services(plan, folder)
        return done

    def release(self, vif: Vif, folder: Path) -> None:
        """The DHCP server gives up the leases of a port that leaves. Those of IPv6 it knows nothing of once
        it has started anew."""
        linux.inside(self._namespace, lambda: namespace.release_leases(vif))
        if self._plan and any(dhcp.leases_ipv6(address.subnet) for address in vif.addresses):
            self._unwatch_dhcp()
            dhcp.stop(folder)
            self._ensure_services(self._plan, folder)

    def remove(self, folder: Path, routed: bool = False) -> None:
        """Nothing of the network is left on the host, but for what a router on it needs."""
        self.close()
        dhcp.stop(folder)
        self._plug.remove_network(self.network_id, routed)
        links.remove(self.network_id)
        with linux.making(f"removing {self._namespace}"):
            linux.delete_namespace(self._namespace)

    def close(self) -> None:
        """Let go of all that this process holds; the network goes on without it."""
        self._metadata.leave(self.network_id)
        self._unwatch_dhcp()
        if self._changes:
            self._changes.close()
        self._changes = None
        self._shape = None

    def _ensure_namespace(self, folder: Path) -> list[str]:
        if linux.namespace_exists(self._namespace):
            return []
        # One that only lost its name lives on in its server and devices: those go first.
        self.close()
        dhcp.stop(folder)
        for name in (names.gate(self.network_id), names.transit(self.network_id)):
            linux.delete_link(name)
        return linux.ensure_namespace(self._namespace, namespace.prepare)

    def _ensure_services(self, plan: NetworkPlan, folder: Path) -> list[str]:
        def inside() -> list[str]:
            if self._changes is None:
                self._changes = self._watch()
            if not self._metadata.listens(self.network_id):
                with linux.making(f"metadata service of network {self.network_id}"):
                    self._metadata.listen(self.network_id)
            return dhcp.ensure(plan, folder, self._config)

        done = linux.inside(self._namespace, inside)
        self._watch_dhcp(dhcp.running(folder))
        return done

    def _watch_dhcp(self, pid: int | None) -> None:
        if self._dhcp and self._dhcp[0] == pid:
            return
        self._unwatch_dhcp()
        if pid is None:
            return
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:  # it ended this moment: repair() will see
            return
        self._dhcp = (pid, handle)
        self._loop.add(handle, lambda: self._dhcp_ended(pid), once=True)

    def _unwatch_dhcp(self) -> None:
        if self._dhcp:
            self._loop.discard(self._dhcp[1])
            os.close(self._dhcp[1])
            self._dhcp = None

    def _dhcp_ended(self, pid: int) -> None:
        """In the loop's thread, without the lock: only tell."""
        dhcp.reap(pid)
        self._on_dhcp_end(self.network_id)


def _shape_of(plan: NetworkPlan) -> object:
    """All of the network that is the same whatever ports it has."""
    return (plan.mtu, plan.subnets, plan.transit, plan.addresses, plan.addresses6)
