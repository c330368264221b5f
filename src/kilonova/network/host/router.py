"""One router on this host: its namespace and what joins it to networks, as one thing that is or is not.

Everything here runs under the lock of its owner (routers.py).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kilonova.network.host import announce, dhcp, linux, names, router_adverts, router_space
from kilonova.network.host.router_plan import Device, RouterPlan
from kilonova.network.host.watch import Changes


class Router:
    """``join`` joins a device of a router, whose namespace it is told, to what it leads to. ``folder``: of
    what advertises it, there only while something does."""

    def __init__(
        self,
        router_id: str,
        join: Callable[[str, Device], list[str]],
        folder: Path,
        watch: Callable[[], Changes],
    ) -> None:
        self.router_id = router_id
        self._join = join
        self._folder = folder
        self._watch = watch
        self._namespace = names.router(router_id)
        self._changes: Changes | None = None
        self._plan: RouterPlan | None = None
        """What ensure() last put in order; None: look."""
        self._announce: list[Device] = []
        """To be told once more: a device may have come up after the first time."""

    def ensure(self, plan: RouterPlan, look: bool = False) -> list[str]:
        """The router works as planned; a line for each thing that had to be made. ``look``: at everything,
        whatever this process remembers."""
        dhcp.bound_log(self._folder)
        self._tell_again()
        if (
            not look
            and plan == self._plan
            and not self._changed()
            and router_adverts.runs(plan, self._folder)
        ):
            return []
        first, self._plan = self._plan is None, None
        done = self._ensure_namespace()
        done += self._remove_others(plan)
        fresh = []
        for device in plan.devices:
            if made := self._ensure_device(device):
                fresh.append(device)
                done += made
        lines, new = linux.inside(self._namespace, lambda: router_space.ensure(plan))
        if first:  # an earlier process may have died between the rules and this
            linux.inside(self._namespace, lambda: router_space.forget(plan))
        lines += linux.inside(self._namespace, lambda: router_adverts.ensure(plan, self._folder))
        self._tell(new, fresh)
        if self._changes is None:
            self._changes = linux.inside(self._namespace, self._watch)
        self._changes.any()
        self._plan = plan
        return done + lines

    def remove(self) -> None:
        """Nothing of the router is left on the host; its devices' other ends go with them."""
        self.close()
        router_adverts.remove(self._folder)
        if linux.namespace_exists(self._namespace):
            for name in sorted(linux.inside(self._namespace, router_space.present)):
                self._remove_device(name)
        with linux.making(f"removing {self._namespace}"):
            linux.delete_namespace(self._namespace)

    def close(self) -> None:
        """Let go of all that this process holds; the router goes on without it."""
        if self._changes:
            self._changes.close()
        self._changes = None
        self._plan = None

    def _changed(self) -> bool:
        return self._changes is None or self._changes.any() or not linux.namespace_exists(self._namespace)

    def _ensure_namespace(self) -> list[str]:
        if linux.namespace_exists(self._namespace):
            return []
        # One that only lost its name lives on in what advertises it.
        self.close()
        router_adverts.remove(self._folder)
        return linux.ensure_namespace(self._namespace, router_space.prepare)

    def _remove_others(self, plan: RouterPlan) -> list[str]:
        """Devices that the router should not have (any more)."""
        wanted = {device.name for device in plan.devices}
        others = sorted(linux.inside(self._namespace, router_space.present) - wanted)
        for name in others:
            self._remove_device(name)
        return [f"device {name} removed" for name in others]

    def _remove_device(self, name: str) -> None:
        def remove() -> None:
            with linux.making(f"removing {name}"):
                linux.delete_link(name)

        linux.inside(self._namespace, remove)

    def _ensure_device(self, device: Device) -> list[str]:
        """The veth pair is there, and joined."""
        here = linux.find(device.link) is not None
        if here and device.name not in linux.inside(self._namespace, router_space.present):
            # Its other end is in a namespace that only lost its name, with a router of that life.
            with linux.making(f"removing {device.link}"):
                linux.delete_link(device.link)
        with linux.netlink() as ip:
            done = linux.ensure_veth(
                ip, device.link, device.name, self._namespace, mtu=device.mtu, peer_mac=device.mac
            )
        return done + self._join(self._namespace, device)

    def _tell_again(self) -> None:
        """What went meanwhile is made anew, and told then."""
        devices, self._announce = self._announce, []

        def tell() -> None:
            there = router_space.present()
            router_space.announce_all([device for device in devices if device.name in there])

        if devices and linux.namespace_exists(self._namespace):
            linux.inside(self._namespace, tell)

    def _tell(self, new: list[Device], fresh: list[Device]) -> None:
        if not new:
            return
        for device in fresh:
            announce.wait_until_forwarding(device.link)
        linux.inside(self._namespace, lambda: router_space.announce_all(new))
        self._announce = new
