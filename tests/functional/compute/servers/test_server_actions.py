"""POST /servers/{id}/action."""

from __future__ import annotations

from typing import Any

import pytest

from kilonova.domain.errors import Unavailable
from kilonova.domain.servers import VmState
from kilonova.store import operations, servers


def act(caller: Any, server_id: str, action: Any, version: str = "2.1") -> Any:
    return caller.post(f"/servers/{server_id}/action", action, version=version)


@pytest.mark.parametrize(
    ("body", "before", "task_state", "kind"),
    [
        ({"os-start": None}, VmState.STOPPED, "powering-on", "start"),
        ({"os-stop": {}}, VmState.ACTIVE, "powering-off", "stop"),
        ({"reboot": {"type": "soft"}}, VmState.ACTIVE, "rebooting", "reboot_soft"),
        ({"reboot": {"type": "HARD"}}, VmState.ERROR, "rebooting_hard", "reboot_hard"),
        ({"pause": None}, VmState.ACTIVE, "pausing", "pause"),
        ({"unpause": None}, VmState.PAUSED, "unpausing", "unpause"),
        ({"suspend": None}, VmState.ACTIVE, "suspending", "suspend"),
        ({"resume": None}, VmState.SUSPENDED, "resuming", "resume"),
    ],
)
def test_begins_an_operation(
    create: Any,
    settle: Any,
    member: Any,
    database: Any,
    body: Any,
    before: VmState,
    task_state: str,
    kind: str,
) -> None:
    server_id = create()
    settle(server_id, before)
    answer = act(member, server_id, body)
    assert (answer.status_code, answer.content) == (202, b"")
    with database.read() as conn:
        assert servers.get(conn, server_id).task_state == task_state
        assert operations.open_of_server(conn, server_id).kind == kind
    again = act(member, server_id, body)
    assert again.status_code == 409
    assert f"while it is in task_state {task_state}" in again.json["conflictingRequest"]["message"]


def test_wrong_state(active: Any, create: Any, member: Any) -> None:
    answer = act(member, active(), {"os-start": None})
    assert answer.status_code == 409
    assert "Cannot 'start' instance" in answer.json["conflictingRequest"]["message"]
    assert "vm_state active" in answer.json["conflictingRequest"]["message"]
    assert act(member, create(), {"os-stop": None}).status_code == 409


@pytest.mark.parametrize(
    ("version", "body", "said"),
    [
        ("2.1", {}, "exactly one action"),
        ("2.1", {"os-start": None, "os-stop": None}, "exactly one action"),
        ("2.1", {"nonsense": None}, "There is no such action: nonsense"),
        ("2.1", {"trigger_crash_dump": None}, "There is no such action"),
        ("2.17", {"trigger_crash_dump": None}, "not available here"),
        ("2.1", {"resize": {}}, "The action resize is not available here"),
        ("2.1", {"reboot": {}}, "reboot"),
        ("2.1", {"reboot": {"type": "warm"}}, "reboot"),
        ("2.1", {"reboot": {"type": "SOFT", "x": 1}}, "reboot"),
        ("2.1", {"reboot": None}, "reboot"),
        ("2.1", {"os-getConsoleOutput": {"length": "x"}}, "length"),
        ("2.1", {"os-getConsoleOutput": {"length": -2}}, "length"),
        ("2.1", {"os-getConsoleOutput": {"length": True}}, "length"),
        ("2.1", {"os-getConsoleOutput": []}, "os-getConsoleOutput"),
        ("2.73", {"lock": {"locked_reason": ""}}, "locked_reason"),
        ("2.73", {"lock": {"locked_reason": "x" * 256}}, "locked_reason"),
        ("2.73", {"lock": {"reason": "x"}}, "lock"),
        ("2.1", [], "array"),
        ("2.1", "os-start", "str"),
    ],
)
def test_bad_actions(active: Any, member: Any, version: str, body: Any, said: str) -> None:
    answer = act(member, active(), body, version)
    assert answer.status_code == 400, answer.text
    assert said in answer.json["badRequest"]["message"]


def test_foreign_server(active: Any, other: Any) -> None:
    server_id = active()
    for action in ({"os-stop": None}, {"resize": {}}, {"lock": None}, {"os-getConsoleOutput": {}}):
        assert act(other, server_id, action).status_code == 404


def test_lock_of_the_owner(active: Any, member: Any, admin: Any) -> None:
    server_id = active(metadata={"a": "b"})
    assert act(member, server_id, {"lock": {"locked_reason": "mine"}}, "2.73").status_code == 202
    shown = member.get(f"/servers/{server_id}", version="2.73").json["server"]
    assert (shown["locked"], shown["locked_reason"]) == (True, "mine")
    for answer in (
        act(member, server_id, {"os-stop": None}),
        act(member, server_id, {"forceDelete": None}),
        member.delete(f"/servers/{server_id}"),
        member.post(f"/servers/{server_id}/metadata", {"metadata": {"c": "d"}}),
        member.delete(f"/servers/{server_id}/metadata/a"),
    ):
        assert answer.status_code == 409
        assert answer.json["conflictingRequest"]["message"] == f"Instance {server_id} is locked"
    assert act(admin, server_id, {"os-stop": None}).status_code == 202
    assert act(member, server_id, {"unlock": None}).status_code == 202
    assert member.get(f"/servers/{server_id}", version="2.9").json["server"]["locked"] is False
    assert member.delete(f"/servers/{server_id}").status_code == 204


def test_lock_of_the_admin(active: Any, member: Any, admin: Any) -> None:
    server_id = active()
    assert act(member, server_id, {"lock": None}).status_code == 202
    assert act(admin, server_id, {"lock": None}).status_code == 202
    assert act(member, server_id, {"unlock": None}).status_code == 403
    assert act(admin, server_id, {"unlock": None}).status_code == 202
    assert act(member, server_id, {"os-stop": None}).status_code == 202


def test_lock_and_unlock_are_recorded(active: Any, member: Any) -> None:
    server_id = active()
    act(member, server_id, {"lock": None})
    act(member, server_id, {"unlock": None})
    actions = member.get(f"/servers/{server_id}/os-instance-actions").json["instanceActions"]
    assert [action["action"] for action in actions] == ["unlock", "lock", "create"]


def test_force_delete(active: Any, member: Any) -> None:
    server_id = active()
    assert act(member, server_id, {"forceDelete": None}).status_code == 202
    assert member.get(f"/servers/{server_id}").json["server"]["OS-EXT-STS:task_state"] == "deleting"
    assert act(member, server_id, {"restore": None}).status_code == 409


def test_reset_state(create: Any, settle: Any, member: Any, admin: Any, database: Any) -> None:
    server_id = create()
    error = {"os-resetState": {"state": "error"}}
    assert act(admin, server_id, error).status_code == 409  # it is being built
    settle(server_id)
    act(member, server_id, {"os-stop": None})
    assert act(member, server_id, error).status_code == 403
    assert act(admin, server_id, {"os-resetState": {"state": "paused"}}).status_code == 400
    assert act(admin, server_id, error).status_code == 202
    shown = member.get(f"/servers/{server_id}").json["server"]
    assert (shown["status"], shown["OS-EXT-STS:task_state"]) == ("ERROR", None)
    with database.read() as conn:
        assert operations.open_of_server(conn, server_id) is None
    assert act(admin, server_id, {"os-resetState": {"state": "active"}}).status_code == 202
    assert member.get(f"/servers/{server_id}").json["server"]["status"] == "ACTIVE"


def test_console_output(active: Any, create: Any, member: Any, console: Any) -> None:
    server_id = active()
    for length, asked in ((None, None), (5, 5), ("7", 7), (-1, None), (0, 0)):
        answer = act(member, server_id, {"os-getConsoleOutput": {"length": length}})
        assert answer.json == {"output": "login: [0m\n"}
        assert console[-1].length == asked
    assert act(member, server_id, {"os-getConsoleOutput": {}}).status_code == 200
    assert act(member, create(), {"os-getConsoleOutput": {}}).status_code == 409


def test_console_of_a_host_that_is_gone(active: Any, member: Any) -> None:
    answer = act(member, active(), {"os-getConsoleOutput": {}})
    assert answer.status_code == Unavailable.status
    assert "serviceUnavailable" in answer.json
