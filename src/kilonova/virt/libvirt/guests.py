"""The domains of our servers: find, look at, start, stop. All calls to a virDomain are here.

Errors are ours already: NotFound, Unavailable, or BuildFailed with libvirt's words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree as ET

import libvirt
import msgspec

from kilonova.domain.errors import BuildFailed, Conflict, NotFound
from kilonova.domain.servers import PowerState
from kilonova.virt.base import Guest
from kilonova.virt.libvirt import power
from kilonova.virt.libvirt.connection import Connection
from kilonova.virt.libvirt.errors import translated
from kilonova.virt.libvirt.folder import Folder, domain_name, server_of
from kilonova.virt.libvirt.xml import interface
from kilonova.virt.libvirt.xml.build import to_text

_UNDEFINE_ALL = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)
_ASKED_BEFORE = "in the process of unplug"
"""What QEMU says when a guest was asked to let go of a device, has not answered, and is asked again."""

_PORT_TAKEN = "Failed to find an available port"
"""What QEMU says when somebody took the port of its screen after libvirt had found it free."""
_STARTS = 20
"""How often a guest is started before it is believed that it finds no port."""

_FREEZE_SECONDS, _THAW_SECONDS = 30, 10
"""How long a guest's agent has for an answer. A thaw is tried again."""


def _where(domain: Any) -> int:
    """What a change of devices is to touch."""
    live = libvirt.VIR_DOMAIN_AFFECT_LIVE if domain.isActive() else 0
    return int(live | libvirt.VIR_DOMAIN_AFFECT_CONFIG)


def _start(domain: Any, flags: int) -> None:
    """libvirt knows the ports of its own guests; those of another libvirt's on this host it sees once they
    are taken, and goes on to the next."""
    for _ in range(_STARTS - 1):
        try:
            domain.createWithFlags(flags)
        except libvirt.libvirtError as error:
            if _PORT_TAKEN not in str(error):
                raise
            domain = _anew(domain)
        else:
            return
    domain.createWithFlags(flags)


def _anew(domain: Any) -> Any:
    """The same guest as another object of libvirt's. The one that failed may yet hear that its QEMU has
    ended, and would then take down the next one. A guest whose memory is saved keeps its object, and that."""
    if domain.hasManagedSaveImage():
        return domain
    document = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
    connection = domain.connect()
    domain.undefineFlags(_UNDEFINE_ALL)
    return connection.defineXML(document)


Find = Callable[[str], ET.Element | None]
"""A device in a domain's document."""


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

    def until_found(self, server_id: str) -> None:
        """libvirt, which looks for the guest's QEMU when it starts, has it again or knows that there is none:
        until then it calls a guest running that is dead, and nobody hears of its death."""
        domain = self.find(server_id)
        with translated(f"find the QEMU of guest {server_id}"):
            if domain is not None and domain.isActive():
                domain.memoryStats()  # waits for its turn with the guest

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
                _start(domain, flags)

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

    # --- devices
    def document(self, server_id: str) -> str | None:
        """The domain as it is now, or as it would start; None if there is none."""
        domain = self.find(server_id)
        if domain is None:
            return None
        try:
            with translated(f"look at guest {server_id}"):
                return str(domain.XMLDesc(0))
        except NotFound:
            return None

    def statistics(self, server_id: str) -> dict[str, Any]:
        """All that libvirt counts of it, by its own names. Conflict if it is off."""
        domain = self.get(server_id)
        with translated(f"read the statistics of guest {server_id}"):
            if not domain.isActive():
                raise Conflict(f"guest {server_id} is off")
            ((_, stats),) = self._connection.get().domainListGetStats([domain], 0, 0)
        return dict(stats)

    def attach(self, server_id: str, device: str, what: str) -> None:
        domain = self.get(server_id)
        with translated(f"attach {what} to guest {server_id}"):
            domain.attachDeviceFlags(device, _where(domain))

    def ask_to_detach(self, server_id: str, find: Find, what: str) -> bool:
        """Off the definition, and the guest, if it is active, is asked; False if it has no such device (now).

        BuildFailed for a paused one: it could not answer.
        """
        domain = self.find(server_id)
        if domain is None:
            return False
        with translated(f"detach {what} of guest {server_id}"):
            active = bool(domain.isActive())
            defined = find(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
            live = find(domain.XMLDesc(0)) if active else None
            if live is not None and domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
                raise BuildFailed(f"guest {server_id} is paused, and cannot let go of a device")
            if defined is not None:
                domain.detachDeviceFlags(to_text(defined), libvirt.VIR_DOMAIN_AFFECT_CONFIG)
            if live is None:
                return False
            try:
                domain.detachDeviceFlags(to_text(live), libvirt.VIR_DOMAIN_AFFECT_LIVE)
            except libvirt.libvirtError as error:
                gone = error.get_error_code() == libvirt.VIR_ERR_DEVICE_MISSING
                if not gone and _ASKED_BEFORE not in str(error):
                    raise
        return True

    def set_link(self, server_id: str, tap: str, up: bool) -> None:
        domain = self.get(server_id)
        with translated(f"set a link of guest {server_id}"):
            nic = interface.find(domain.XMLDesc(0), tap)
            if nic is None:
                raise NotFound(f"guest {server_id} has no interface {tap}")
            domain.updateDeviceFlags(to_text(interface.with_link(nic, up)), _where(domain))

    # --- disks of a guest that is on, by their names (vdb)
    def resize(self, server_id: str, name: str, size: int) -> None:
        """The guest sees that the disk has ``size`` bytes; nothing if it does."""
        domain = self.get(server_id)
        with translated(f"resize a disk of guest {server_id}"):
            if domain.blockInfo(name)[0] < size:
                domain.blockResize(name, size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)

    def begin_copy(self, server_id: str, name: str, target: str) -> None:
        """Every byte, and what the guest writes meanwhile, goes to ``target``; which is there already."""
        domain = self.get(server_id)
        flags = libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT | libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB
        with translated(f"copy a disk of guest {server_id}"):
            domain.blockCopy(name, target, {}, flags)

    def end_copy(self, server_id: str, name: str, pivot: bool) -> None:
        """The guest goes on with the target, which has the same, or as before."""
        domain = self.get(server_id)
        with translated(f"end the copy of a disk of guest {server_id}"):
            domain.blockJobAbort(name, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT if pivot else 0)

    # --- a copy of a disk, while the guest goes on
    def begin_backup(self, server_id: str, document: str) -> None:
        """From this moment on QEMU writes what the document says; job_done() tells when it is written."""
        domain = self.get(server_id)
        with translated(f"copy a disk of guest {server_id}"):
            domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)  # of an earlier job: forgotten by this
            domain.backupBegin(document, None, 0)

    def job_done(self, server_id: str) -> bool | None:
        """True when it went well, None while it goes on. BuildFailed says why it did not."""
        domain = self.get(server_id)
        with translated(f"copy a disk of guest {server_id}"):
            if domain.jobStats().get("type", 0) != libvirt.VIR_DOMAIN_JOB_NONE:
                return None
            ended = domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
        if ended.get("type") == libvirt.VIR_DOMAIN_JOB_COMPLETED:
            return True
        raise BuildFailed(f"the copy of a disk of guest {server_id} broke off: {ended.get('errmsg', 'why?')}")

    def end_job(self, server_id: str) -> bool:
        """Give up what is being written, if anything is: whether there was."""
        domain = self.get(server_id)
        with translated(f"give up the copy of a disk of guest {server_id}"):
            if not domain.isActive() or domain.jobStats().get("type", 0) == libvirt.VIR_DOMAIN_JOB_NONE:
                return False
            domain.abortJob()
            return True

    def idle(self, server_id: str) -> bool | None:
        domain = self.get(server_id)
        with translated(f"look at guest {server_id}"):
            active = domain.isActive() and domain.jobStats().get("type", 0) != libvirt.VIR_DOMAIN_JOB_NONE
        return None if active else True

    def freeze(self, server_id: str) -> None:
        """Its agent holds the file systems still, with nothing left to write."""
        domain = self.get(server_id)
        with translated(f"hold the file systems of guest {server_id} still"):
            domain.agentSetResponseTimeout(_FREEZE_SECONDS, 0)
            domain.fsFreeze()

    def thaw(self, server_id: str) -> None:
        domain = self.get(server_id)
        with translated(f"let the file systems of guest {server_id} go on"):
            domain.agentSetResponseTimeout(_THAW_SECONDS, 0)
            domain.fsThaw()

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
