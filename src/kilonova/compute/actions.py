"""perform_action: stop, start, reboot, pause, unpause, suspend, resume. One step each, named like it.

What was cut off in its midst is done again by the next owner. All but reboot look first whether it is done
already; that a guest was rebooted cannot be seen, so it may be rebooted twice, and ends running.
"""

from __future__ import annotations

from collections.abc import Callable

from kilonova.cancel import Cancel
from kilonova.compute.journal import Journal
from kilonova.compute.parts import Parts
from kilonova.compute.server_volumes import volumes_of
from kilonova.domain.errors import NotFound
from kilonova.domain.messages import Work
from kilonova.domain.servers import PowerState

_SHUTDOWN_TIMEOUT = 60.0
"""Seconds that a guest has to shut itself down (Nova's shutdown_timeout)."""


def perform_action(parts: Parts, work: Work, journal: Journal, cancel: Cancel) -> PowerState:
    """Do it; the guest's power state after. StaleEpoch: ``cancel`` was set while a guest was waited for."""
    with journal.step(work.kind):
        _ACTIONS[work.kind](parts, work, cancel)
    guest = parts.driver.guest(work.server_id)
    if guest is None:
        raise NotFound(f"Instance {work.server_id} has no guest on this host.")
    return guest.power_state


def _start(parts: Parts, work: Work, _cancel: Cancel) -> None:
    _plug(parts, work)
    parts.driver.power_on(work.spec, work.vifs, volumes_of(parts, work))


def _stop(parts: Parts, work: Work, cancel: Cancel) -> None:
    parts.driver.power_off(work.server_id, _SHUTDOWN_TIMEOUT, cancel)


def _reboot_soft(parts: Parts, work: Work, cancel: Cancel) -> None:
    volumes = volumes_of(parts, work)
    parts.driver.reboot(work.spec, work.vifs, hard=False, cancel=cancel, volumes=volumes)


def _reboot_hard(parts: Parts, work: Work, cancel: Cancel) -> None:
    _plug(parts, work)
    volumes = volumes_of(parts, work)
    parts.driver.reboot(work.spec, work.vifs, hard=True, cancel=cancel, volumes=volumes)


def _pause(parts: Parts, work: Work, _cancel: Cancel) -> None:
    parts.driver.pause(work.server_id)


def _unpause(parts: Parts, work: Work, _cancel: Cancel) -> None:
    parts.driver.unpause(work.server_id)


def _suspend(parts: Parts, work: Work, _cancel: Cancel) -> None:
    parts.driver.suspend(work.server_id)


def _resume(parts: Parts, work: Work, _cancel: Cancel) -> None:
    _plug(parts, work)
    parts.driver.resume(work.spec, work.vifs, volumes_of(parts, work))


def _plug(parts: Parts, work: Work) -> None:
    """The taps may be gone since the guest was last on: the host may have been restarted."""
    for vif in work.vifs:
        parts.network.plug(vif)


_ACTIONS: dict[str, Callable[[Parts, Work, Cancel], None]] = {
    "start": _start,
    "stop": _stop,
    "reboot_soft": _reboot_soft,
    "reboot_hard": _reboot_hard,
    "pause": _pause,
    "unpause": _unpause,
    "suspend": _suspend,
    "resume": _resume,
}
