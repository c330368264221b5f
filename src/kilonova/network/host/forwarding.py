"""net.ipv4.ip_forward of the host, for all who need it: on while anybody does, then as it was before."""

from __future__ import annotations

import threading
from pathlib import Path

from kilonova.network.host import links


class Forwarding:
    """``remembered``: the file that keeps the host's own setting."""

    def __init__(self, remembered: Path) -> None:
        self._remembered = remembered
        self._holders: set[str] = set()
        self._lock = threading.Lock()

    def hold(self, who: str) -> list[str]:
        """The host forwards; a line if it did not."""
        with self._lock:
            self._holders.add(who)
            return links.ensure_forwarding(self._remembered)

    def release(self, who: str) -> list[str]:
        """Who held it last gives the host its setting back."""
        with self._lock:
            self._holders.discard(who)
            if not self._holders:
                links.restore_forwarding(self._remembered)
            return []

    def expect(self, who: str) -> None:
        """``who`` will hold it again: nobody else's release gives it back meanwhile."""
        with self._lock:
            self._holders.add(who)
