"""The flows of this host's ports in the switch, in memory as they should be; perimeter.py's counterpart."""

from __future__ import annotations

import threading
from contextlib import suppress

from kilonova.domain.errors import Unavailable
from kilonova.domain.network import INTEGRATION_BRIDGE, Vif
from kilonova.network.host.switch import flows, openflow
from kilonova.network.host.switch.switch import Switch


class Guard:
    """One lock, so that a look never mistakes a change under way for damage."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._ports: dict[str, tuple[Vif, int]] = {}
        self._lock = threading.Lock()

    def admit(self, vif: Vif, number: int) -> None:
        """The port's flows are loaded, at once; whether they are still there later, ensure() sees."""
        with self._lock:
            if self._ports.get(vif.port_id) == (vif, number):
                return
            wanted = [*self._base(), *flows.guard(self._switch.owner, vif, number)]
            self._replace(flows.cookie(self._switch.owner, vif.port_id) + "/-1", wanted)
            self._ports[vif.port_id] = vif, number

    def dismiss(self, port_id: str) -> None:
        with self._lock:
            self._ports.pop(port_id, None)
            if self._switch.is_there():
                with suppress(
                    Unavailable
                ):  # flows end with the switch; what it may restore, ensure() removes
                    self._replace(flows.cookie(self._switch.owner, port_id) + "/-1", [])

    def ensure(self) -> list[str]:
        """Exactly these flows are ours."""
        with self._lock:
            if not self._ports:
                return []
            cookies = flows.cookies(self._switch.owner)
            wanted = self._base()
            for vif, number in self._ports.values():
                wanted += flows.guard(self._switch.owner, vif, number)
            if openflow.are(self._switch.control(), cookies, wanted):
                return []
            self._replace(cookies, wanted)
            return [f"flows of {INTEGRATION_BRIDGE} were not as they should be"]

    def _base(self) -> list[str]:
        return [flows.base(self._switch.owner)] if self._switch.is_ours() else []

    def _replace(self, cookies: str, wanted: list[str]) -> None:
        commands = [f"delete cookie={cookies}", *(f"add {flow}" for flow in wanted)]
        openflow.change(self._switch.control(), commands)
