"""The state machine of a server as one table: which action may begin when, and what it shows meanwhile.

Source: the `check_instance_state` decorators and the action descriptions of the Compute API reference
(https://docs.openstack.org/api-ref/compute/#servers-run-an-action-servers-action).
"""

from __future__ import annotations

import msgspec

from kilonova.domain.servers import TaskState, VmState


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """``record``: the name in the list of instance actions. ``goal``: the vm_state when it ended well."""

    record: str
    vm_states: frozenset[VmState]
    task_state: TaskState
    goal: VmState
    while_busy: frozenset[TaskState] = frozenset()
    """Task states that do not stop it from beginning."""


def _states(*states: VmState) -> frozenset[VmState]:
    return frozenset(states)


_V, _T = VmState, TaskState

ACTIONS: dict[str, Action] = {
    "start": Action(record="start", vm_states=_states(_V.STOPPED), task_state=_T.POWERING_ON, goal=_V.ACTIVE),
    "stop": Action(
        record="stop", vm_states=_states(_V.ACTIVE, _V.ERROR), task_state=_T.POWERING_OFF, goal=_V.STOPPED
    ),
    "reboot_soft": Action(
        record="reboot", vm_states=_states(_V.ACTIVE), task_state=_T.REBOOTING, goal=_V.ACTIVE
    ),
    "reboot_hard": Action(
        record="reboot",
        vm_states=_states(_V.ACTIVE, _V.STOPPED, _V.PAUSED, _V.SUSPENDED, _V.ERROR),
        task_state=_T.REBOOTING_HARD,
        goal=_V.ACTIVE,
    ),
    "pause": Action(record="pause", vm_states=_states(_V.ACTIVE), task_state=_T.PAUSING, goal=_V.PAUSED),
    "unpause": Action(
        record="unpause", vm_states=_states(_V.PAUSED), task_state=_T.UNPAUSING, goal=_V.ACTIVE
    ),
    "suspend": Action(
        record="suspend", vm_states=_states(_V.ACTIVE), task_state=_T.SUSPENDING, goal=_V.SUSPENDED
    ),
    "resume": Action(
        record="resume", vm_states=_states(_V.SUSPENDED), task_state=_T.RESUMING, goal=_V.ACTIVE
    ),
}
"""Delete is not here: it may begin in every state, and supersedes whatever is open."""

ATTACH_INTERFACE, DETACH_INTERFACE = "attach_interface", "detach_interface"
ATTACH_VOLUME, DETACH_VOLUME, SWAP_VOLUME = "attach_volume", "detach_volume", "swap_volume"
INTERFACES_CHANGE_IN = _states(_V.ACTIVE, _V.PAUSED, _V.STOPPED)
"""NICs come and go without a task state: the server stays what it is, whatever becomes of them."""
VOLUMES_CHANGE_IN = INTERFACES_CHANGE_IN
VOLUMES_SWAP_IN = _states(_V.ACTIVE, _V.PAUSED)
"""So do volumes. One is swapped for another while the guest has it open."""


def api_status(vm_state: str, task_state: str | None) -> str:
    """The ``status`` that the API shows (Nova's common.status_from_state)."""
    if vm_state == VmState.ACTIVE:
        return {TaskState.REBOOTING: "REBOOT", TaskState.REBOOTING_HARD: "HARD_REBOOT"}.get(
            TaskState(task_state) if task_state else TaskState.SPAWNING, "ACTIVE"
        )
    if task_state == TaskState.REBOOTING_HARD:
        return "HARD_REBOOT"
    return _STATUS[VmState(vm_state)]


_STATUS = {
    VmState.BUILDING: "BUILD",
    VmState.PAUSED: "PAUSED",
    VmState.SUSPENDED: "SUSPENDED",
    VmState.STOPPED: "SHUTOFF",
    VmState.ERROR: "ERROR",
    VmState.DELETED: "DELETED",
}


def states_of_status(status: str) -> list[tuple[VmState, frozenset[TaskState] | None]]:
    """What a ``status=`` filter selects: (vm_state, task_states); None: any. Empty: no such one."""
    wanted = status.upper()
    if wanted == "ACTIVE":
        return [(VmState.ACTIVE, None)]
    if wanted == "REBOOT":
        return [(VmState.ACTIVE, frozenset({TaskState.REBOOTING}))]
    if wanted == "HARD_REBOOT":
        return [(state, frozenset({TaskState.REBOOTING_HARD})) for state in VmState]
    return [(state, None) for state, name in _STATUS.items() if name == wanted]
