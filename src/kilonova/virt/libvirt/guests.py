"""The domains of our servers: find, look at, start, stop. All calls to a virDomain are here.

Errors are ours already: NotFound, Unavailable, or BuildFailed with libvirt's words.
"""

from __future__ import annotations

from typing import Any

import libvirt
import msgspec

from kilonova.domain.errors import BuildFailed, NotFound
from kilonova.domain.servers import PowerState
from kilonova.virt.base import Guest
from kilonova.virt.libvirt import power
from kilonova.virt.libvirt.connection import Connection
from kilonova.virt.libvirt.errors import translated
from kilonova.virt.libvirt.folder import Folder, domain_name, server_of

_UNDEFINE_ALL = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)


class View(msgspec.Struct, frozen=True, kw_only=True):
    """A guest as it is now. ``passing``: on the way to a state that will have its own event."""

    guest: Guest
    passing: bool

    @property
    def power_state(self) -> PowerState:
        return self.guest.power_state

    @property
    def is_active(self) -> bool:
        return self.power_state in (PowerState.RUNNING, PowerState.PAUSED)


class Guests:
    def __init__(self, connection: Connection, folder: Folder) -> None:
        self._connection = connection
        self._folder = folder

    def all(self) -> list[Guest]:
        with translated("list the guests"):
            domains = [
                (server_id, domain)
                for domain in self._connection.get().listAllDomains()
                if (server_id := server_of(domain.name())) is not None
            ]
        return [view.guest for server_id, domain in domains if (view := self._view(server_id, domain))]

    def find(self, server_id: str) -> Any | None:
        """The virDomain, or None."""
        try:
            name = domain_name(server_id)
            with translated(f"find guest {server_id}"):
                return self._connection.get().lookupByName(name)
        except NotFound:
            return None

    def get(self, server_id: str) -> Any:
        domain = self.find(server_id)
        if domain is None:
            raise NotFound(f"there is no guest {server_id} on this host")
        return domain

    def look(self, server_id: str) -> View | None:
        domain = self.find(server_id)
        return None if domain is None else self._view(server_id, domain)

    def define(self, server_id: str, document: str) -> Any:
        with translated(f"define guest {server_id}"):
            return self._connection.get().defineXML(document)

    def create(self, server_id: str, *, paused: bool = False, fresh: bool = False) -> None:
        """Start it. ``fresh``: forget a saved memory. Nothing if it is active already."""
        flags = (libvirt.VIR_DOMAIN_START_PAUSED if paused else 0) | (
            libvirt.VIR_DOMAIN_START_FORCE_BOOT if fresh else 0
        )
        domain = self.get(server_id)
        with translated(f"start guest {server_id}"):
            if not domain.isActive():
                domain.createWithFlags(flags)

    def let_run(self, server_id: str) -> None:
        """From paused to running; nothing if it runs. BuildFailed if it is off."""
        domain = self.get(server_id)
        with translated(f"resume guest {server_id}"):
            if domain.state()[0] != libvirt.VIR_DOMAIN_RUNNING:
                domain.resume()

    def pause(self, server_id: str) -> None:
        domain = self.get(server_id)
        with translated(f"pause guest {server_id}"):
            if domain.state()[0] != libvirt.VIR_DOMAIN_PAUSED:
                domain.suspend()

    def save(self, server_id: str) -> None:
        """Memory to disk; nothing if that was done. BuildFailed if the guest is off."""
        domain = self.get(server_id)
        with translated(f"suspend guest {server_id}"):
            if domain.isActive() or not domain.hasManagedSaveImage():
                domain.managedSave(0)

    def press_power_button(self, server_id: str) -> bool:
        """Ask by ACPI; False if the guest cannot be asked (it is stopped, or paused)."""
        domain = self.get(server_id)
        try:
            with translated(f"shut down guest {server_id}"):
                if domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING:
                    domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
                    return True
        except BuildFailed:
            return False
        return False

    def pull_plug(self, server_id: str) -> None:
        """Off now, and no saved memory of it."""
        domain = self.get(server_id)
        try:
            with translated(f"destroy guest {server_id}"):
                if domain.isActive():
                    domain.destroy()
        except BuildFailed:
            # It may have ended by itself in between: then all is well.
            view = self.look(server_id)
            if view is not None and view.is_active:
                raise
        with translated(f"drop the saved memory of guest {server_id}"):
            if domain.hasManagedSaveImage():
                domain.managedSaveRemove(0)

    def undefine(self, server_id: str) -> None:
        """No domain is left: not running, not defined. Nothing if there is none."""
        if self.find(server_id) is None:
            return
        try:
            self.pull_plug(server_id)
            domain = self.get(server_id)
            with translated(f"undefine guest {server_id}"):
                domain.undefineFlags(_UNDEFINE_ALL)
        except NotFound:
            return

    def _view(self, server_id: str, domain: Any) -> View | None:
        # A build marks its guest before it starts it and until after it resumed it, so the mark is looked
        # at on both sides of the state: a pause of the build's is never taken for a user's.
        mark = self._folder.instance(server_id).awaits_start
        marked = mark.exists()
        try:
            with translated(f"look at guest {server_id}"):
                state, reason = domain.state()
                saved = state == libvirt.VIR_DOMAIN_SHUTOFF and bool(domain.hasManagedSaveImage())
        except NotFound:
            return None
        found = power.power_state(state, reason, saved)
        waits = found is PowerState.PAUSED and (marked or mark.exists())
        guest = Guest(server_id=server_id, power_state=found, awaits_start=waits)
        return View(guest=guest, passing=power.is_passing(state, reason))
