"""Discovery, the edge's headers and faults, and paths that are not, or no longer, there."""

from __future__ import annotations

from typing import Any

import falcon.testing
import pytest
from keystoneauth1 import discover

from kilonova.api.compute import gone

HEADERS = ("OpenStack-API-Version", "X-OpenStack-Nova-API-Version")


def test_the_root_lists_the_one_api(client: falcon.testing.TestClient) -> None:
    for path in ("/compute", "/compute/"):
        answer = client.simulate_get(path)
        assert answer.status_code == 200
        (version,) = answer.json["versions"]
        assert version["id"] == "v2.1"
        assert version["links"] == [{"rel": "self", "href": "http://falconframework.org/compute/v2.1/"}]


def test_the_api_describes_itself_without_a_token(client: falcon.testing.TestClient) -> None:
    for path in ("/compute/v2.1", "/compute/v2.1/"):
        version = client.simulate_get(path).json["version"]
        assert (version["status"], version["min_version"], version["version"]) == ("CURRENT", "2.1", "2.104")
        assert version["links"][0]["href"] == "http://falconframework.org/compute/v2.1/"


def test_keystoneauth_understands_both_documents(client: falcon.testing.TestClient) -> None:
    class Session:
        def get(self, url: str, **_: Any) -> Any:
            answer = client.simulate_get(url.removeprefix("http://falconframework.org"))

            class Response:
                status_code = answer.status_code
                url = ""

                @staticmethod
                def json() -> Any:
                    return answer.json

            return Response()

    for path in ("/compute/", "/compute/v2.1/"):
        found = discover.Discover(Session(), f"http://falconframework.org{path}")
        (data,) = found.version_data()
        assert data["min_microversion"] == (2, 1)
        assert data["max_microversion"] == (2, 104)


def test_every_answer_names_its_microversion(member: Any) -> None:
    for path, status in (("/flavors", 200), ("/flavors/none", 404), ("/flavors?limit=x", 400)):
        answer = member.get(path, version="2.61")
        assert answer.status_code == status
        assert [answer.headers[name] for name in HEADERS] == ["compute 2.61", "2.61"]
        assert answer.headers["Vary"] == ", ".join(HEADERS)


def test_every_answer_names_its_request_in_both_headers(member: Any) -> None:
    for path in ("/flavors", "/flavors/none", "/none"):
        answer = member.get(path)
        assert answer.headers["X-Compute-Request-Id"] == answer.headers["X-OpenStack-Request-ID"]


def test_a_version_that_is_not_served(member: Any) -> None:
    answer = member.get("/flavors", version="2.200")
    assert answer.status_code == 406
    assert answer.json == {
        "computeFault": {
            "code": 406,
            "message": "Version 2.200 is not supported by the API. Minimum is 2.1 and maximum is 2.104.",
        }
    }
    assert [answer.headers[name] for name in HEADERS] == ["compute 2.200", "2.200"]


def test_a_version_that_is_none(member: Any) -> None:
    answer = member.get("/flavors", version="two")
    assert answer.status_code == 400
    assert "badRequest" in answer.json
    assert not {name.lower() for name in HEADERS} & answer.headers.keys()


def test_no_token(client: falcon.testing.TestClient) -> None:
    for headers in ({}, {"X-Auth-Token": "stolen"}):
        answer = client.simulate_get("/compute/v2.1/flavors", headers=headers)
        assert answer.status_code == 401
        assert answer.json["error"] == {
            "code": 401,
            "title": "Unauthorized",
            "message": "The request you have made requires authentication.",
        }
        assert answer.headers["WWW-Authenticate"].startswith("Keystone uri=")


@pytest.mark.parametrize("path", ["/os-migrations", "/os-server-groups", "/os-networks", "/nothing"])
def test_what_is_not_here_is_not_found(admin: Any, path: str) -> None:
    answer = admin.get(path, version="2.90")
    assert (answer.status_code, list(answer.json)) == (404, ["itemNotFound"])


def test_what_nova_has_and_is_not_here_says_so(admin: Any, place: Any) -> None:
    server = place("h", "s")
    for method, path, what in (
        ("GET", "/os-server-groups", "server groups"),
        ("GET", f"/servers/{server}/migrations", "migrations"),
        ("POST", f"/servers/{server}/remote-consoles", "consoles"),
    ):
        fault = admin.ask(method, path, "2.100", json={}).json["itemNotFound"]
        assert fault["message"] == f"The resource could not be found: {what} are not available here."


def test_no_guest_has_numa_nodes(admin: Any, other: Any, place: Any) -> None:
    path = f"/servers/{place('h', 's')}/topology"
    assert admin.get(path, version="2.78").json == {"nodes": [], "pagesize_kb": None}
    assert admin.get(path, version="2.77").status_code == 404
    assert other.get(path, version="2.78").status_code == 404


@pytest.mark.parametrize("method", ["PATCH", "POST", "OPTIONS", "TRACE"])
def test_a_method_that_a_path_has_not(admin: Any, method: str) -> None:
    answer = admin.ask(method, "/flavors/1", "2.1")
    assert answer.json["badMethod"]["code"] == answer.status_code == 405
    assert answer.headers["Allow"].split(", ") == ["GET", "PUT", "DELETE"]
    assert answer.headers["X-OpenStack-Request-ID"].startswith("req-")


def test_what_was_once(member: Any) -> None:
    rows = [route for route in gone.ROUTES if route.handler is gone.gone]
    assert len(rows) == 46
    for route in rows:
        path = route.path.format(id="1", name="n", server_id="s")
        answer = member.ask(route.method, path, "2.1")
        assert (answer.status_code, answer.json["computeFault"]["code"]) == (410, 410), path


def test_extensions_are_what_is_there(member: Any) -> None:
    listed = member.get("/extensions").json["extensions"]
    aliases = {one["alias"] for one in listed}
    assert {"os-keypairs", "OS-EXT-STS"} <= aliases
    assert not {"os-cells", "os-volumes"} & aliases
    assert member.get("/extensions/os-keypairs").json["extension"]["name"] == "Keypairs"
    assert member.get("/extensions/os-cells").status_code == 404


def test_unknown_query_parameters_are_refused_when_nova_does(admin: Any) -> None:
    everywhere = {"/flavors/1", "/extensions", "/os-availability-zone", "/flavors/1/os-extra_specs"}
    for path in everywhere:
        assert admin.get(f"{path}?x=1", version="2.101").status_code == 200
        assert admin.get(f"{path}?x=1", version="2.102").status_code == 400
    for path in ("/flavors", "/os-keypairs", "/os-services", "/limits", f"/os-quota-sets/{'a' * 32}"):
        assert admin.get(f"{path}?x=1", version="2.74").status_code == 200
        assert admin.get(f"{path}?x=1", version="2.75").status_code == 400
