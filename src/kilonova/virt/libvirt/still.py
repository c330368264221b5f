"""Guests whose file systems are held still for a moment, by their agents.

That one is held is written down before it is, and until it goes on: whatever dies meanwhile, who comes after
lets it go on. One at a time holds a guest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from kilonova import log
from kilonova.domain.errors import BuildFailed, KilonovaError, Unavailable
from kilonova.domain.servers import PowerState
from kilonova.virt.libvirt.folder import Folder
from kilonova.virt.libvirt.guests import Guests
from kilonova.virt.libvirt.xml import serial

_TURN = 15.0
"""Seconds that hold() waits for another one's."""
_log = log.get("virt.libvirt")


class Stillness:
    def __init__(self, folder: Folder, guests: Guests) -> None:
        self._folder = folder
        self._guests = guests
        self._left: set[str] = set()
        """Of which it was said that they could not be thawed."""
        self._changed = threading.Condition()
        self._busy: set[str] = set()
        """Held still or thawed by somebody now."""
        self._holds: dict[str, tuple[str, float]] = {}
        """Server → by what hold() holds it, and until when (monotonic)."""

    @contextmanager
    def still(self, server_id: str, in_order: bool = False) -> Iterator[None]:
        """In the block the guest's file systems have nothing left to write, if its agent answers. BuildFailed
        if it does not, where they must be ``in_order``."""
        if not self._answers(server_id, in_order):
            yield
            return
        with self._changed:
            self._changed.wait_for(lambda: server_id not in self._busy)
            self._busy.add(server_id)
        try:
            self._folder.instance(server_id).frozen.touch()
            try:
                self._freeze(server_id, in_order)
                yield
            finally:
                self.thaw(server_id)
        finally:
            self._let_go(server_id)

    def hold(self, server_id: str, by: str, seconds: float, in_order: bool = False) -> bool:
        """As still(), until go_on() by the same, or until so many seconds are over: whether it is held.
        Unavailable: others hold it for long."""
        if not self._is_on(server_id) or not self._answers(server_id, in_order):
            return False
        with self._changed:
            if self._holds.get(server_id, ("",))[0] == by:
                self._holds[server_id] = (by, time.monotonic() + seconds)
                self._changed.notify_all()
                return True
            if not self._changed.wait_for(lambda: server_id not in self._busy, _TURN):
                raise Unavailable(f"guest {server_id} is held still for something else")
            self._busy.add(server_id)
        try:
            self._folder.instance(server_id).frozen.touch()
            self._freeze(server_id, in_order)
            with self._changed:
                self._holds[server_id] = (by, time.monotonic() + seconds)
            end = threading.Thread(target=self._end_in_time, args=(server_id, by), name="still", daemon=True)
            end.start()
        except BaseException:
            with self._changed:
                self._holds.pop(server_id, None)
            self.thaw(server_id)
            self._let_go(server_id)
            raise
        return True

    def _end_in_time(self, server_id: str, by: str) -> None:
        """In a thread of its own: what looks now and then may be waiting for a conductor, and who was to say
        that it goes on may be away for the same reason."""
        with self._changed:
            while True:
                held_by, until = self._holds.get(server_id, ("", 0.0))
                if held_by != by:
                    return
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
        _log.warning("held_too_long", server=server_id, by=by)
        self.go_on(server_id, by)

    def go_on(self, server_id: str, by: str) -> bool:
        """What hold() holds by that goes on: whether it was held until now."""
        with self._changed:
            if self._holds.get(server_id, ("",))[0] != by:
                return False
            del self._holds[server_id]
        try:
            was_held = self._folder.instance(server_id).frozen.exists()
            self.thaw(server_id)
        finally:
            self._let_go(server_id)
        return was_held

    def thaw(self, server_id: str) -> bool:
        """A guest whose file systems were held still goes on; whether none is held any more. Else it is to be
        tried again: libvirt is away, or the agent is still busy with holding them."""
        mark = self._folder.instance(server_id).frozen
        if not mark.exists():
            return True
        try:
            self._guests.thaw(server_id)
        except KilonovaError as error:
            if self._is_on(server_id):
                if server_id not in self._left:
                    _log.warning("not_thawed", server=server_id, reason=error.message)
                self._left.add(server_id)
                return False
        self._left.discard(server_id)
        mark.unlink(missing_ok=True)
        return True

    def thaw_all(self) -> None:
        """Those that could not be thawed when it was due."""
        for server_id in self._folder.server_ids():
            self.thaw_left(server_id)

    def thaw_left(self, server_id: str) -> None:
        """It, if it was left held: what is just being taken is not spoilt."""
        with self._changed:
            if server_id in self._busy:
                return
            self._busy.add(server_id)
        try:
            self.thaw(server_id)
        finally:
            self._let_go(server_id)

    def stop(self) -> None:
        """Nobody is held by hold() any more: who would let them go on stops."""
        with self._changed:
            held = [(server_id, by) for server_id, (by, _) in self._holds.items()]
        for server_id, by in held:
            self.go_on(server_id, by)
        self.thaw_all()

    def _is_on(self, server_id: str) -> bool:
        """Also if nobody knows now."""
        try:
            view = self._guests.look(server_id)
        except KilonovaError:
            return True
        return view is not None and view.is_active

    def _answers(self, server_id: str, in_order: bool) -> bool:
        view = self._guests.look(server_id)
        paused = view is not None and view.power_state is PowerState.PAUSED
        if not paused and serial.agent_answers(self._guests.document(server_id) or ""):
            return True
        if in_order:
            why = "is paused" if paused else "has no agent that holds its file systems still"
            raise BuildFailed(f"guest {server_id} {why}")
        return False

    def _freeze(self, server_id: str, in_order: bool) -> None:
        """As Nova does: if the agent cannot, the disk is taken as it is, unless it must be ``in_order``."""
        try:
            self._guests.freeze(server_id)
        except KilonovaError as error:
            if in_order:
                raise BuildFailed(error.message) from error
            _log.warning("not_frozen", server=server_id, reason=error.message)

    def _let_go(self, server_id: str) -> None:
        with self._changed:
            self._busy.discard(server_id)
            self._changed.notify_all()
