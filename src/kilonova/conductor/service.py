"""The conductor as a service: its table of messages, and its sweeper's thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from kilonova import log
from kilonova.bus.base import Handler, Outcomes, together
from kilonova.conductor import (
    actions,
    build,
    builds,
    delete,
    proxy,
    reports,
    server_volumes,
    sweeper,
    volume_backed,
    words,
)
from kilonova.conductor.gather import Reports
from kilonova.conductor.parts import Parts
from kilonova.conductor.purge import Purge

_log = log.get("conductor")

MESSAGES: dict[str, Callable[[Parts, Any], Any]] = {
    "build_instances": build.build_instances,
    "perform_action": actions.perform_action,
    "delete_instance": delete.delete_instance,
    "report": reports.report,
    "host_servers": reports.host_servers,
    "ready": reports.ready,
    "progress": proxy.progress,
    "allocate_networks": proxy.allocate_networks,
    "prepare_block_devices": server_volumes.prepare_block_devices,
    "connect_volume": server_volumes.connect_volume,
    "await_snapshots": volume_backed.await_snapshots,
    "reimage_root": volume_backed.reimage_root,
    "server_volumes": server_volumes.server_volumes,
    "volume_ended": server_volumes.volume_ended,
    "activate": proxy.activate,
    "finished": proxy.finished,
    "renew_leases": proxy.renew_leases,
    "power_states": proxy.power_states,
    "guest_metadata": proxy.guest_metadata,
    "network_state": proxy.network_state,
    "host_routers": proxy.host_routers,
    "set_password": proxy.set_password,
    "server_record": proxy.server_record,
}


TOGETHER: dict[str, Callable[[Parts, list[Any]], Outcomes]] = {
    "build_instances": builds.build_instances,
    "progress": words.progress,
    "activate": words.activate,
    "finished": words.finished,
}
"""The same for several messages that wait together."""


def handlers(parts: Parts, gathered: Reports | None = None) -> dict[str, Handler]:
    """What the bus serves on the topic ``conductor``. Reports are gathered there, or written as they come."""
    functions: dict[str, Handler] = {name: partial(function, parts) for name, function in MESSAGES.items()}
    for name, several in TOGETHER.items():
        together(functions[name], partial(several, parts))
    if gathered is not None:
        functions["report"] = gathered.report
    return functions


class Sweeper:
    """Runs sweep() and the purge now, then each ``sweep_interval`` seconds and whenever a lease may have run
    out, until closed."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._purge = Purge(parts)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            pause = self._parts.config.operations.sweep_interval
            try:
                sweeper.sweep(self._parts)
                if self._parts.hearing is not None:
                    self._parts.hearing.again()
                self._forget()
                pause = sweeper.pause(self._parts)
            except Exception:  # noqa: BLE001 - the loop must outlive a database that is away
                _log.exception("sweep_failed")
            if self._closing.wait(pause):
                return

    def _forget(self) -> None:
        try:
            self._purge.round()
        except Exception:  # noqa: BLE001 - what cannot be forgotten keeps nothing from being swept
            _log.exception("purge_failed")
