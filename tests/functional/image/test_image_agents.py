"""What a host's agent may do with images: fetch each, and no more."""

from __future__ import annotations

import pytest

from .conftest import Caller


@pytest.fixture
def private(alice: Caller) -> str:
    image_id: str = alice.create_active(b"x", name="private", visibility="private")["id"]
    return image_id


def test_an_agent_fetches_every_image(alice: Caller, agent: Caller, private: str) -> None:
    assert agent.show(private)["name"] == "private"
    assert agent("GET", f"/v2/images/{private}/file").content == b"x"
    assert alice("POST", f"/v2/images/{private}/actions/deactivate").status_code == 204
    assert agent("GET", f"/v2/images/{private}/file").content == b"x", "its build was accepted before"


@pytest.mark.parametrize("kind", ["snapshot", "backup"])
def test_an_agent_gives_an_image_of_a_server_its_bytes(alice: Caller, agent: Caller, kind: str) -> None:
    image_id = alice.create(visibility="private", image_type=kind)["id"]
    assert agent.upload(image_id, b"taken").status_code == 204
    assert alice("GET", f"/v2/images/{image_id}/file").content == b"taken"
    assert agent.upload(image_id, b"other").status_code == 409


def test_an_agent_does_nothing_else(alice: Caller, agent: Caller, private: str) -> None:
    assert agent.names() == agent.names("?visibility=all") == []
    path = f"/v2/images/{private}"
    change = {"op": "replace", "path": "/name", "value": "mine"}
    shared = alice.create_active(b"x", visibility="shared")["id"]
    refused = [
        agent("POST", "/v2/images", json={"name": "mine"}),
        agent.patch(private, change),
        agent.upload(alice.create()["id"], b"other"),
        agent("PUT", f"{path}/tags/mine"),
        agent("POST", f"{path}/actions/deactivate"),
        agent("GET", f"/v2/images/{shared}/members"),
        agent("POST", f"/v2/images/{shared}/members", json={"member": "me"}),
        agent("DELETE", path),
    ]
    assert {answer.status_code for answer in refused} <= {403, 404}, [one.status_code for one in refused]
    assert alice.show(private)["name"] == "private"


def test_no_other_role_sees_what_is_private(bob: Caller, reader: Caller, private: str) -> None:
    assert bob("GET", f"/v2/images/{private}").status_code == 404
    assert reader("GET", f"/v2/images/{private}/file").status_code == 403
