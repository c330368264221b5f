"""The state machine of a server as one table: which action may begin when, and what it shows meanwhile.

Source: the `check_instance_state` decorators and the action descriptions of the Compute API reference
(https://docs.openstack.org/api-ref/compute/#servers-run-an-action-servers-action).
"""

from __future__ import annotations

import msgspec

from kilonova.domain.servers import TaskState, VmState


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """``record``: the name in the list of instance actions. ``goal``: the vm_state when it ended well, if
    its operation does not name another; None: the one that it began in."""

    record: str
    vm_states: frozenset[VmState]
    task_state: TaskState
    goal: VmState | None
    while_busy: frozenset[TaskState] = frozenset()
    """Task states that do not stop it from beginning."""
    moves_disks: bool = False
    """It takes as long as whole disks take: it has a time limit of its own, and a host's builders do it."""
    needs_host: bool = True
    """It is done where the server is."""
    harmless: bool = False
    """If it fails the server is what it was, and no more than the action's record tells of it."""


def _states(*states: VmState) -> frozenset[VmState]:
    return frozenset(states)


_V, _T = VmState, TaskState

_WITH_DISK = _states(_V.ACTIVE, _V.STOPPED, _V.PAUSED, _V.SUSPENDED)

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
    "create_image": Action(
        record="createImage",
        vm_states=_WITH_DISK,
        task_state=_T.IMAGE_SNAPSHOT,
        goal=None,
        moves_disks=True,
        harmless=True,
    ),
    "create_backup": Action(
        record="createBackup",
        vm_states=_WITH_DISK,
        task_state=_T.IMAGE_BACKUP,
        goal=None,
        moves_disks=True,
        harmless=True,
    ),
    "rebuild": Action(
        record="rebuild",
        vm_states=_states(_V.ACTIVE, _V.STOPPED, _V.ERROR),
        task_state=_T.REBUILDING,
        goal=_V.ACTIVE,
        moves_disks=True,
    ),
    "rescue": Action(
        record="rescue",
        vm_states=_states(_V.ACTIVE, _V.STOPPED, _V.ERROR),
        task_state=_T.RESCUING,
        goal=_V.RESCUED,
        moves_disks=True,
    ),
    "shelve": Action(
        record="shelve",
        vm_states=_WITH_DISK,
        task_state=_T.SHELVING,
        goal=_V.SHELVED,
        moves_disks=True,
        harmless=True,
    ),
    "shelve_offload": Action(
        record="shelveOffload",
        vm_states=_states(_V.SHELVED),
        task_state=_T.SHELVING_OFFLOADING,
        goal=_V.SHELVED_OFFLOADED,
        harmless=True,
    ),
    "unshelve": Action(
        record="unshelve",
        vm_states=_states(_V.SHELVED, _V.SHELVED_OFFLOADED),
        task_state=_T.UNSHELVING,
        goal=_V.ACTIVE,
        needs_host=False,
        moves_disks=True,
        harmless=True,
    ),
    "unrescue": Action(
        record="unrescue", vm_states=_states(_V.RESCUED), task_state=_T.UNRESCUING, goal=_V.ACTIVE
    ),
}
"""Delete is not here: it may begin in every state, and supersedes whatever is open."""

ATTACH_INTERFACE, DETACH_INTERFACE = "attach_interface", "detach_interface"
ATTACH_VOLUME, DETACH_VOLUME, SWAP_VOLUME = "attach_volume", "detach_volume", "swap_volume"
VOLUME_COMES = frozenset({ATTACH_VOLUME, SWAP_VOLUME})
"""These end by the word of the host alone, also past their deadline: while nobody knows whether a guest
writes to the volume, nobody else may have it."""
INTERFACES_CHANGE_IN = _states(_V.ACTIVE, _V.PAUSED, _V.STOPPED)
"""NICs come and go without a task state: the server stays what it is, whatever becomes of them."""
VOLUMES_CHANGE_IN = INTERFACES_CHANGE_IN
VOLUMES_CHANGE_IN_220 = VOLUMES_CHANGE_IN | _states(_V.SHELVED, _V.SHELVED_OFFLOADED)
"""Since microversion 2.20."""
VOLUMES_SWAP_IN = _states(_V.ACTIVE, _V.PAUSED)
"""So do volumes. One is swapped for another while the guest has it open."""


_SHOWN: dict[TaskState, tuple[str, frozenset[VmState]]] = {
    _T.REBOOTING: ("REBOOT", _states(_V.ACTIVE)),
    _T.REBOOTING_HARD: ("HARD_REBOOT", frozenset(VmState)),
    **dict.fromkeys(
        (_T.REBUILDING, _T.REBUILD_BLOCK_DEVICE_MAPPING, _T.REBUILD_SPAWNING),
        ("REBUILD", _states(_V.ACTIVE, _V.STOPPED, _V.ERROR)),
    ),
}
"""Task states that the API shows instead of these vm_states."""


def api_status(vm_state: str, task_state: str | None) -> str:
    """The ``status`` that the API shows (Nova's common.status_from_state)."""
    if task_state is not None:
        shown = _SHOWN.get(TaskState(task_state))
        if shown is not None and vm_state in shown[1]:
            return shown[0]
    return _STATUS[VmState(vm_state)]


_STATUS = {
    VmState.ACTIVE: "ACTIVE",
    VmState.BUILDING: "BUILD",
    VmState.PAUSED: "PAUSED",
    VmState.SUSPENDED: "SUSPENDED",
    VmState.STOPPED: "SHUTOFF",
    VmState.RESCUED: "RESCUE",
    VmState.SHELVED: "SHELVED",
    VmState.SHELVED_OFFLOADED: "SHELVED_OFFLOADED",
    VmState.ERROR: "ERROR",
    VmState.DELETED: "DELETED",
}


def states_of_status(status: str) -> list[tuple[VmState, frozenset[TaskState] | None]]:
    """What a ``status=`` filter selects: (vm_state, task_states); None: any. Empty: no such one."""
    wanted = status.upper()
    if found := [vm_state for vm_state, name in _STATUS.items() if name == wanted]:
        return [(vm_state, None) for vm_state in found]
    tasks = frozenset(task for task, (name, _) in _SHOWN.items() if name == wanted)
    vm_states = {vm_state for task in tasks for vm_state in _SHOWN[task][1]}
    return [(vm_state, tasks) for vm_state in VmState if vm_state in vm_states]
