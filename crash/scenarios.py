"""What users ask for and what goes wrong with it, one at a time: each a way to some of the fault points."""

from __future__ import annotations

import itertools
import json
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.running import until

from crash.cluster import NOT_NOW, Cluster

Options = Mapping[str, Mapping[str, Any]]

_PATIENCE = 60.0
_LOOK = 30.0
_ANSWERED = 2.0
_BY_ITSELF = 120.0
"""Nothing waits for what a lost word told of: its host sees it when it compares, within a minute."""
_FIRST = {"host-1-1", "host-1-2"}
"""The hosts of compute-1; compute-2 has one, which takes no builds but in one scenario."""
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Scenario:
    """``prepare`` makes the server of that name, ``run`` does it, also if a service dies in it; it ends in
    the vm_state ``goal`` (``deleted``: gone). ``options`` by kind of service."""

    name: str
    goal: str
    run: Callable[[Cluster, str], None]
    prepare: Callable[[Cluster, str], None] = lambda _cluster, _server: None
    options: Mapping[str, Options] = field(default_factory=dict)
    again: Callable[[Cluster, str], None] = lambda _cluster, _server: None
    """What the user does when all services are there again."""
    settles: float = 60.0
    """Seconds within which all must be well again."""
    finally_: Callable[[Cluster, str], None] = lambda _cluster, _server: None
    """What must be true in the end, beside what always must. AssertionError."""
    state: Callable[[Cluster, str], str] | None = None
    """What it ends in, if it is not a server: of the name that it is given."""
    late: str = ""
    """Where it may end too, if the conductor dies that was to say that it takes too long or cannot be."""
    perhaps: frozenset[str] = frozenset()
    """Points that are passed only if another service is not the quicker one: if nobody comes there, all ends
    well, and that is no finding. Each is another scenario's for certain."""


def server_name(scenario: Scenario) -> str:
    return f"{scenario.name}-{next(_numbers)}"


def state_of(cluster: Cluster, server: str) -> str:
    """Its vm_state, or deleted; with an asterisk while something is done to it. Empty: there is none."""
    with cluster.database() as db:
        query = f"SELECT vm_state, task_state, deleted_at FROM servers WHERE name = '{server}'"
        row = db.execute(query).fetchone()
    if row is None:
        return ""
    vm_state, task_state, deleted_at = row
    if deleted_at is not None:
        return "deleted"
    return vm_state if task_state is None else f"{vm_state}*"


def story_of(cluster: Cluster, server: str) -> str:
    """Its state, and the fault that it shows."""
    with cluster.database() as db:
        row = db.execute(f"SELECT fault FROM servers WHERE name = '{server}'").fetchone()
    fault = row[0] if row is not None else None
    if isinstance(fault, str):
        fault = json.loads(fault)
    said = f" ({fault['message']})" if fault else ""
    return f"{server} is {state_of(cluster, server) or 'nowhere'}{said}"


def id_of(cluster: Cluster, server: str) -> str:
    with cluster.database() as db:
        row = db.execute(f"SELECT id FROM servers WHERE name = '{server}'").fetchone()
    assert row is not None, f"{server} was never accepted"
    return str(row[0])


# --- what is asked


def build(cluster: Cluster, server: str, **headers: str) -> None:
    with suppress(*NOT_NOW):
        body = {
            "name": server,
            "imageRef": cluster.image_id,
            "flavorRef": "42",
            "networks": [{"uuid": cluster.network_id}],
            "config_drive": True,
        }
        status, answer = cluster.ask("POST", "/compute/v2.1/servers", {"server": body}, headers)
        assert status == 202, answer


def _build_with_key(cluster: Cluster, server: str) -> None:
    build(cluster, server, **{"Idempotency-Key": server})


def _build_again_with_key(cluster: Cluster, server: str) -> None:
    """The answer was perhaps lost: asked once more, and made once."""
    _build_with_key(cluster, server)
    with cluster.database() as db:
        count = db.execute(f"SELECT count(*) FROM servers WHERE name = '{server}'").fetchone()[0]
    assert count == 1, f"{count} servers of one key"


def delete(cluster: Cluster, server: str) -> None:
    with suppress(*NOT_NOW):
        status, answer = cluster.ask("DELETE", f"/compute/v2.1/servers/{id_of(cluster, server)}")
        assert status == 204, answer


def action(name: str, value: object = None, accepted: int = 202) -> Callable[[Cluster, str], None]:
    def act(cluster: Cluster, server: str) -> None:
        path = f"/compute/v2.1/servers/{id_of(cluster, server)}/action"
        with suppress(*NOT_NOW):
            status, answer = cluster.ask("POST", path, {name: value})
            assert status == accepted, answer

    return act


create_image = action("createImage", {"name": "s"})
_create_backup = action("createBackup", {"name": "b", "backup_type": "daily", "rotation": 0})


def images_are_clear(cluster: Cluster, server: str) -> None:
    """Of what was to become an image there is one, or nothing."""
    path = f"/image/v2/images?instance_uuid={id_of(cluster, server)}"
    found = [image["status"] for image in cluster.ask("GET", path)[1]["images"]]
    assert set(found) <= {"active"}, found


def _rebuild(cluster: Cluster, server: str) -> None:
    action("rebuild", {"imageRef": cluster.image_id})(cluster, server)


_rescue = action("rescue", None, 200)


def _attach(cluster: Cluster, server: str) -> None:
    """Nobody waits for the answer here: if the host dies it comes after a minute."""
    path = f"/compute/v2.1/servers/{id_of(cluster, server)}/os-interface"
    body = {"interfaceAttachment": {"net_id": cluster.network_id}}
    in_background(cluster, "POST", path, body)


def _detach(cluster: Cluster, server: str) -> None:
    path = f"/compute/v2.1/servers/{id_of(cluster, server)}/os-interface"
    with suppress(*NOT_NOW):
        in_background(cluster, "DELETE", f"{path}/{_port_of(cluster, server)}", None)


def _link_down(cluster: Cluster, server: str) -> None:
    with suppress(*NOT_NOW):
        body = {"port": {"admin_state_up": False}}
        status, answer = cluster.ask("PUT", f"/networking/v2.0/ports/{_port_of(cluster, server)}", body)
        assert status == 200, answer


def _port_deleted(cluster: Cluster, server: str) -> None:
    with suppress(*NOT_NOW):
        status, answer = cluster.ask("DELETE", f"/networking/v2.0/ports/{_port_of(cluster, server)}")
        assert status == 204, answer


def _said_to_be_deleted(cluster: Cluster, server: str) -> None:
    """As another network service says it."""
    with suppress(*NOT_NOW):
        tag, uuid = _port_of(cluster, server), id_of(cluster, server)
        events = [{"name": "network-vif-deleted", "server_uuid": uuid, "tag": tag}]
        status, answer = cluster.ask("POST", "/compute/v2.1/os-server-external-events", {"events": events})
        assert status == 200, answer


def _port_of(cluster: Cluster, server: str) -> str:
    _, answer = cluster.ask("GET", f"/compute/v2.1/servers/{id_of(cluster, server)}/os-interface")
    (nic,) = answer["interfaceAttachments"]
    return str(nic["port_id"])


def in_background(cluster: Cluster, method: str, path: str, body: object) -> None:
    def ask() -> None:
        """Again while the host seems down: on a busy machine a restart takes longer than it may be silent."""
        with suppress(*NOT_NOW, AssertionError):
            until(lambda: cluster.ask(method, path, body)[0] != 503, _LOOK, "the host")

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_ANSWERED)


def settled(state: str, *ways: Callable[[Cluster, str], None]) -> Callable[[Cluster, str], None]:
    """Do these one after the other; in the end the server is in that state."""

    def prepare(cluster: Cluster, server: str) -> None:
        for way in ways:
            way(cluster, server)
            until(lambda: state_of(cluster, server)[-1:] not in {"", "*"}, _PATIENCE, f"{server}")
            assert state == "error" or state_of(cluster, server) != "error", story_of(cluster, server)
        assert state_of(cluster, server) == state, f"{story_of(cluster, server)}, not {state}"

    return prepare


def _placed_on(cluster: Cluster, server: str, hosts: set[str]) -> None:
    """Wait until its build was given to one of these; not for ever: who has to give it may die of that."""
    query = "SELECT host FROM servers WHERE name = '{server}'"

    def placed() -> bool:
        with cluster.database() as db:
            row = db.execute(query.format(server=server)).fetchone()
        return row is not None and row[0] in hosts

    with suppress(AssertionError):
        until(placed, _LOOK, f"{server} to be placed")


def _handed_over_twice(cluster: Cluster, server: str) -> None:
    """The host does not hear of its build before it starts again."""
    compute = cluster.services["compute-1"]
    compute.send(signal.SIGSTOP)
    build(cluster, server)
    _placed_on(cluster, server, _FIRST)
    compute.kill()
    compute.begin()


def heard_late(change: Callable[[Cluster, str], None]) -> Callable[[Cluster, str], None]:
    """The host does not hear of it before it starts again."""

    def run(cluster: Cluster, server: str) -> None:
        compute = cluster.services["compute-1"]
        compute.send(signal.SIGSTOP)
        change(cluster, server)
        compute.kill()
        compute.begin()

    return run


def _left(cluster: Cluster, server: str) -> None:
    """The host dies with the build, and another one is there."""
    dead = cluster.services["compute-2"]
    for host in _FIRST:
        enable(cluster, host, False)
    enable(cluster, "host-2", True)
    dead.send(signal.SIGSTOP)
    try:
        build(cluster, server)
        _placed_on(cluster, server, {"host-2"})
        for host in _FIRST:
            enable(cluster, host, True)
        enable(cluster, "host-2", False)
        _placed_on(cluster, server, _FIRST)
    finally:
        dead.send(signal.SIGCONT)


def _unshelve_nowhere(cluster: Cluster, server: str) -> None:
    """While no host takes it. Not for ever: who has to end it may die of that."""
    for host in _FIRST:
        enable(cluster, host, False)
    try:
        action("unshelve")(cluster, server)
        with suppress(AssertionError):
            until(lambda: state_of(cluster, server)[-1:] != "*", _LOOK, f"{server} to end")
    finally:
        for host in _FIRST:
            enable(cluster, host, True)


def enable(cluster: Cluster, host: str, enabled: bool) -> None:
    """Whether the host takes new builds."""
    _, answer = cluster.ask("GET", f"/compute/v2.1/os-services?binary=nova-compute&host={host}")
    (service,) = answer["services"]
    body = {"status": "enabled" if enabled else "disabled"}
    status, answer = cluster.ask("PUT", f"/compute/v2.1/os-services/{service['id']}", body)
    assert status == 200, answer


active = settled("active", build)
_stopped = settled("stopped", build, action("os-stop"))
_FAILS: Mapping[str, Options] = {
    "compute": {"fake": {"step_failures": {"ensure_paused": 1.0}}},
    "conductor": {"operations": {"max_attempts": 2}},
}


_CANNOT_TAKE_SNAPSHOT: Mapping[str, Options] = {
    "compute": {"fake": {"step_failures": {"take_snapshot": 1.0}}}
}
_CANNOT_ATTACH: Mapping[str, Options] = {"compute": {"fake": {"step_failures": {"attach_interface": 1.0}}}}


def slow(step: str, timeout: str) -> Mapping[str, Options]:
    """Work that takes longer than it may."""
    return {
        "api": {"operations": {timeout: 2.0}},
        "compute": {"fake": {"step_seconds": {step: 5.0}}},
    }


SCENARIOS = [
    Scenario("build", "active", build),
    Scenario("build-with-key", "active", _build_with_key, again=_build_again_with_key),
    Scenario("delete", "deleted", delete, active),
    Scenario("stop", "stopped", action("os-stop"), active),
    Scenario("start", "active", action("os-start"), _stopped),
    Scenario("reboot-soft", "active", action("reboot", {"type": "SOFT"}), active),
    Scenario("reboot-hard", "active", action("reboot", {"type": "HARD"}), active),
    Scenario("pause", "paused", action("pause"), active),
    Scenario("unpause", "active", action("unpause"), settled("paused", build, action("pause"))),
    Scenario("suspend", "suspended", action("suspend"), active),
    Scenario("resume", "active", action("resume"), settled("suspended", build, action("suspend"))),
    Scenario("create-image", "active", create_image, active, finally_=images_are_clear),
    Scenario("create-backup", "active", _create_backup, active, finally_=images_are_clear),
    Scenario(
        "create-image-fails",
        "active",
        create_image,
        active,
        _CANNOT_TAKE_SNAPSHOT,
        finally_=images_are_clear,
    ),
    Scenario(
        "create-backup-fails",
        "active",
        _create_backup,
        active,
        _CANNOT_TAKE_SNAPSHOT,
        finally_=images_are_clear,
    ),
    Scenario("rebuild", "active", _rebuild, active),
    Scenario("rebuild-of-what-is-off", "stopped", _rebuild, _stopped),
    Scenario("rescue", "rescued", _rescue, active),
    Scenario("unrescue", "active", action("unrescue"), settled("rescued", build, _rescue)),
    Scenario("shelve", "shelved_offloaded", action("shelve"), active, finally_=images_are_clear),
    Scenario(
        "unshelve",
        "active",
        action("unshelve"),
        settled("shelved_offloaded", build, action("shelve")),
        finally_=images_are_clear,
    ),
    Scenario(
        "unshelve-fails",
        "shelved_offloaded",
        _unshelve_nowhere,
        settled("shelved_offloaded", build, action("shelve")),
        finally_=images_are_clear,
        late="active",
    ),
    Scenario("attach-interface", "active", _attach, active),
    Scenario("detach-interface", "active", _detach, active),
    Scenario("attach-interface-heard-late", "active", heard_late(_attach), active),
    Scenario("detach-interface-heard-late", "active", heard_late(_detach), active),
    Scenario("attach-interface-fails", "active", _attach, active, _CANNOT_ATTACH),
    Scenario(
        "attach-interface-takes-too-long",
        "active",
        _attach,
        active,
        slow("attach_interface", "action_timeout"),
    ),
    Scenario("port-link-down", "active", _link_down, active, settles=_BY_ITSELF),
    Scenario("port-deleted", "active", _port_deleted, active, settles=_BY_ITSELF),
    Scenario("port-said-to-be-deleted", "active", _said_to_be_deleted, active, settles=_BY_ITSELF),
    Scenario("build-heard-late", "active", _handed_over_twice),
    Scenario("build-of-a-host-that-dies", "active", _left),
    Scenario("build-fails", "error", build, options=_FAILS),
    Scenario("delete-of-what-failed", "deleted", delete, settled("error", build), _FAILS),
    Scenario(
        "build-takes-too-long", "error", build, options=slow("ensure_disks", "build_timeout"), late="active"
    ),
    Scenario(
        "stop-takes-too-long",
        "error",
        action("os-stop"),
        active,
        slow("power_off", "action_timeout"),
        late="stopped",
    ),
    Scenario(
        "delete-takes-too-long", "error", delete, active, slow("destroy", "action_timeout"), late="deleted"
    ),
]
