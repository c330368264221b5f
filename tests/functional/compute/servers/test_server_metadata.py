"""/servers/{id}/metadata and /servers/{id}/tags."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest


def test_metadata(active: Any, member: Any) -> None:
    path = f"/servers/{active(metadata={'a': '1'})}/metadata"
    assert member.get(path).json == {"metadata": {"a": "1"}}
    assert member.post(path, {"metadata": {"b": "2"}}).json == {"metadata": {"a": "1", "b": "2"}}
    assert member.put(path + "/c", {"meta": {"c": "ü <&> \u0000"}}).json == {"meta": {"c": "ü <&> \u0000"}}
    assert member.get(path + "/c").json == {"meta": {"c": "ü <&> \u0000"}}
    assert member.delete(path + "/a").status_code == 204
    assert member.delete(path + "/a").status_code == 404
    assert member.get(path + "/a").status_code == 404
    assert member.put(path, {"metadata": {"z": "9"}}).json == {"metadata": {"z": "9"}}
    assert member.put(path, {"metadata": {}}).json == {"metadata": {}}


@pytest.mark.parametrize(
    "body",
    [
        None,
        {},
        [],
        {"metadata": None},
        {"metadata": {"a": 1}},
        {"metadata": {"": "x"}},
        {"metadata": {"a/b": "x"}},
        {"metadata": {"a" * 256: "x"}},
        {"metadata": {"a": "x" * 256}},
        {"metadata": {}, "x": 1},
    ],
)
def test_bad_metadata(active: Any, member: Any, body: Any) -> None:
    path = f"/servers/{active()}/metadata"
    assert member.post(path, body).status_code == 400
    assert member.put(path, body).status_code == 400


@pytest.mark.parametrize(
    "body", [{"meta": {"b": "1"}}, {"meta": {}}, {"meta": {"a": "1", "b": "2"}}, {"metadata": {}}]
)
def test_bad_metadata_item(active: Any, member: Any, body: Any) -> None:
    assert member.put(f"/servers/{active()}/metadata/a", body).status_code == 400


def test_metadata_quota(active: Any, member: Any, admin: Any) -> None:
    path = f"/servers/{active()}/metadata"
    admin.put(f"/os-quota-sets/{'a' * 32}", {"quota_set": {"metadata_items": 2}})
    assert member.post(path, {"metadata": {"a": "1", "b": "2"}}).status_code == 200
    assert member.post(path, {"metadata": {"b": "3"}}).status_code == 200
    assert member.post(path, {"metadata": {"c": "3"}}).status_code == 403
    assert member.put(path + "/c", {"meta": {"c": "3"}}).status_code == 403


def test_metadata_and_tags_of_a_server_that_is_built(create: Any, member: Any) -> None:
    server_id = create()
    answer = member.post(f"/servers/{server_id}/metadata", {"metadata": {"a": "1"}})
    assert answer.status_code == 409
    assert "vm_state building" in answer.json["conflictingRequest"]["message"]
    assert member.put(f"/servers/{server_id}/tags", {"tags": []}, version="2.26").status_code == 409


def test_tags(active: Any, member: Any) -> None:
    server_id = active()
    path = f"/servers/{server_id}/tags"
    assert member.get(path, version="2.25").status_code == 404
    made = member.put(f"{path}/b%20c", version="2.26")
    assert (made.status_code, made.content) == (201, b"")
    assert made.headers["location"].endswith(f"{path}/b%20c")
    assert member.put(f"{path}/b%20c", version="2.26").status_code == 204
    assert member.get(f"{path}/b%20c", version="2.26").status_code == 204
    assert member.get(f"{path}/x", version="2.26").status_code == 404
    assert member.put(path, {"tags": ["z", "a", "a"]}, version="2.26").json == {"tags": ["a", "z"]}
    assert member.get(path, version="2.26").json == {"tags": ["a", "z"]}
    assert member.get(f"/servers/{server_id}", version="2.26").json["server"]["tags"] == ["a", "z"]
    assert member.delete(f"{path}/a", version="2.26").status_code == 204
    assert member.delete(f"{path}/a", version="2.26").status_code == 404
    assert member.delete(path, version="2.26").status_code == 204
    assert member.get(path, version="2.26").json == {"tags": []}


@pytest.mark.parametrize("tag", ["a,b", "x" * 61, "\x00", "a\nb"])
def test_bad_tags(active: Any, member: Any, tag: str) -> None:
    path = f"/servers/{active()}/tags"
    assert member.put(f"{path}/{quote(tag, safe='')}", version="2.26").status_code == 400
    assert member.put(path, {"tags": [tag]}, version="2.26").status_code == 400


@pytest.mark.parametrize(
    "body", [None, {}, {"tags": None}, {"tags": [1]}, {"tags": [""]}, {"tags": ["a"], "x": 1}]
)
def test_bad_bodies_of_tags(active: Any, member: Any, body: Any) -> None:
    assert member.put(f"/servers/{active()}/tags", body, version="2.26").status_code == 400


def test_at_most_fifty_tags(active: Any, member: Any) -> None:
    path = f"/servers/{active()}/tags"
    many = [f"t{i:02}" for i in range(51)]
    assert member.put(path, {"tags": many}, version="2.26").status_code == 400
    assert member.put(path, {"tags": many[:50]}, version="2.26").status_code == 200
    assert member.put(f"{path}/one-more", version="2.26").status_code == 400
    assert member.put(f"{path}/t00", version="2.26").status_code == 204
