"""Sharing an image with other projects."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import ALICE, BOB, Caller


@pytest.fixture
def shared(alice: Caller) -> str:
    """An image of alice's, offered to bob."""
    image_id: str = alice.create_active(b"x", name="shared")["id"]
    result = alice("POST", f"/v2/images/{image_id}/members", json={"member": BOB})
    assert result.status_code == 200
    assert result.json["member_id"] == BOB
    assert result.json["image_id"] == image_id
    assert result.json["status"] == "pending"
    assert result.json["schema"] == "/v2/schemas/member"
    return image_id


def answer(caller: Caller, image_id: str, status: Any, member: str = BOB) -> int:
    path = f"/v2/images/{image_id}/members/{member}"
    return caller("PUT", path, json={"status": status}).status_code


def test_a_member_accepts(bob: Caller, shared: str) -> None:
    assert bob.show(shared)["name"] == "shared"
    assert bob("GET", f"/v2/images/{shared}/file").content == b"x"
    assert bob.names() == []
    assert bob.names("?member_status=pending") == bob.names("?member_status=all") == ["shared"]
    assert answer(bob, shared, "accepted") == 200
    assert bob.names() == ["shared"]
    assert answer(bob, shared, "rejected") == 200
    assert bob.names() == []
    assert bob.names("?member_status=rejected&visibility=shared") == ["shared"]


def test_a_member_changes_nothing_else(bob: Caller, shared: str) -> None:
    change = {"op": "replace", "path": "/name", "value": "mine"}
    assert bob.patch(shared, change).status_code == 403
    assert bob("DELETE", f"/v2/images/{shared}").status_code == 403
    assert bob("POST", f"/v2/images/{shared}/members", json={"member": "x"}).status_code == 403
    assert bob("DELETE", f"/v2/images/{shared}/members/{BOB}").status_code == 403


def test_only_the_member_answers(alice: Caller, bob: Caller, admin: Caller, shared: str) -> None:
    assert answer(alice, shared, "accepted") == 403
    assert answer(bob, shared, "accepted", "other") == 404
    assert answer(bob, shared, "maybe") == 400
    assert answer(bob, shared, 5) == 400
    assert answer(admin, shared, "accepted", "nobody") == 404
    assert answer(admin, shared, "accepted") == 200


def test_the_owner_sees_all_members_and_a_member_itself(alice: Caller, bob: Caller, shared: str) -> None:
    assert alice("POST", f"/v2/images/{shared}/members", json={"member": "third"}).status_code == 200
    path = f"/v2/images/{shared}/members"
    assert [m["member_id"] for m in alice("GET", path).json["members"]] == [BOB, "third"]
    assert [m["member_id"] for m in bob("GET", path).json["members"]] == [BOB]
    assert alice("GET", path).json["schema"] == "/v2/schemas/members"
    assert alice("GET", f"{path}/third").json["status"] == "pending"
    assert bob("GET", f"{path}/{BOB}").json["member_id"] == BOB
    assert bob("GET", f"{path}/third").status_code == 404
    assert alice("GET", f"{path}/fourth").status_code == 404


def test_a_member_removed_sees_nothing(alice: Caller, bob: Caller, shared: str) -> None:
    path = f"/v2/images/{shared}/members/{BOB}"
    assert alice("DELETE", path).status_code == 204
    assert alice("DELETE", path).status_code == 404
    assert bob("GET", f"/v2/images/{shared}").status_code == 404
    assert bob("GET", f"/v2/images/{shared}/members").status_code == 404


def test_an_image_that_is_no_longer_shared(alice: Caller, bob: Caller, shared: str) -> None:
    private = {"op": "replace", "path": "/visibility", "value": "private"}
    assert alice.patch(shared, private).status_code == 200
    assert bob("GET", f"/v2/images/{shared}").status_code == 404
    assert alice("GET", f"/v2/images/{shared}/members").status_code == 403
    assert alice("POST", f"/v2/images/{shared}/members", json={"member": "x"}).status_code == 403


@pytest.mark.parametrize(
    "body", [{}, {"member": ""}, {"member": 5}, {"member": "x" * 256}, {"member": "a\0"}, [], "x"]
)
def test_members_that_can_not_be(alice: Caller, shared: str, body: Any) -> None:
    assert alice("POST", f"/v2/images/{shared}/members", json=body).status_code == 400


def test_a_member_is_added_once(alice: Caller, shared: str) -> None:
    assert alice("POST", f"/v2/images/{shared}/members", json={"member": BOB}).status_code == 409


def test_at_most_so_many_members(alice: Caller, shared: str) -> None:
    path = f"/v2/images/{shared}/members"
    for number in range(127):
        assert alice("POST", path, json={"member": f"m{number}"}).status_code == 200
    assert alice("POST", path, json={"member": "one more"}).status_code == 413


def test_the_dead_image_s_members_see_nothing(alice: Caller, bob: Caller, shared: str) -> None:
    assert alice("DELETE", f"/v2/images/{shared}").status_code == 204
    assert bob.names("?member_status=all") == []
    assert alice("GET", f"/v2/images/{shared}/members/{ALICE}").status_code == 404
