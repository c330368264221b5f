"""What libvirt's (state, reason) of a domain means to us.

Reasons matter: a domain is also "paused" for a moment while it starts, saves or restores, and "shut off"
after a managed save. What is only a moment on the way is nothing to report.
"""

from __future__ import annotations

import libvirt

from kilonova.domain.servers import PowerState

_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: PowerState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: PowerState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: PowerState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTDOWN: PowerState.RUNNING,  # on its way down, not there yet
    libvirt.VIR_DOMAIN_SHUTOFF: PowerState.SHUTDOWN,
    libvirt.VIR_DOMAIN_CRASHED: PowerState.CRASHED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: PowerState.SUSPENDED,
}
_PASSING_PAUSES = frozenset(
    {
        libvirt.VIR_DOMAIN_PAUSED_MIGRATION,
        libvirt.VIR_DOMAIN_PAUSED_SAVE,
        libvirt.VIR_DOMAIN_PAUSED_DUMP,
        libvirt.VIR_DOMAIN_PAUSED_FROM_SNAPSHOT,
        libvirt.VIR_DOMAIN_PAUSED_SHUTTING_DOWN,
        libvirt.VIR_DOMAIN_PAUSED_SNAPSHOT,
        libvirt.VIR_DOMAIN_PAUSED_STARTING_UP,
    }
)


def power_state(state: int, reason: int, saved: bool) -> PowerState:
    """``saved``: a managed save image of the domain exists."""
    if state == libvirt.VIR_DOMAIN_SHUTOFF:
        if saved:
            return PowerState.SUSPENDED
        if reason == libvirt.VIR_DOMAIN_SHUTOFF_CRASHED:
            return PowerState.CRASHED
    return _STATES.get(state, PowerState.NOSTATE)


def is_passing(state: int, reason: int) -> bool:
    """The state is a moment on the way to another, which will have its own event."""
    return (state == libvirt.VIR_DOMAIN_PAUSED and reason in _PASSING_PAUSES) or (
        state == libvirt.VIR_DOMAIN_SHUTDOWN
    )
