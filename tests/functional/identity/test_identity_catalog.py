"""The version documents and the read-only catalog"""

from __future__ import annotations

import pytest

from kilonova.identity.catalog import DEFAULT_SERVICES


@pytest.mark.parametrize("path", ["", "/"])
def test_versions(guest, path):
    answer = guest.call("GET", path, status=300).json
    version = answer["versions"]["values"][0]
    assert (version["id"], version["status"]) == ("v3.14", "stable")
    assert version["links"] == [{"rel": "self", "href": "http://falconframework.org/identity/v3/"}]


@pytest.mark.parametrize("path", ["/v3", "/v3/"])
def test_version(guest, path):
    assert guest.get(path)["version"]["id"] == "v3.14"
    assert not guest.call("HEAD", path).content


def test_services_endpoints_regions(admin):
    services = admin.get("/v3/services")["services"]
    assert [item["type"] for item in services] == [one.type for one in DEFAULT_SERVICES]
    compute = admin.get("/v3/services?type=compute")["services"][0]
    assert admin.get(f"/v3/services/{compute['id']}")["service"] == compute
    endpoints = admin.get(f"/v3/endpoints?service_id={compute['id']}&interface=public")["endpoints"]
    assert [item["url"] for item in endpoints] == ["http://falconframework.org/compute/v2.1"]
    assert admin.get(f"/v3/endpoints/{endpoints[0]['id']}")["endpoint"] == endpoints[0]
    assert len(admin.get("/v3/endpoints")["endpoints"]) == 3 * len(DEFAULT_SERVICES)
    assert [item["id"] for item in admin.get("/v3/regions")["regions"]] == ["RegionOne"]
    assert admin.get("/v3/regions/RegionOne")["region"]["parent_region_id"] is None


@pytest.mark.parametrize("kind", ["services", "endpoints", "regions"])
def test_the_catalog_cannot_be_written(admin, kind):
    admin.call("GET", f"/v3/{kind}/unknown", status=404)
    answer = admin.call("POST", f"/v3/{kind}", {}, status=403)
    assert "catalog" in answer.json["error"]["message"]
    admin.call("PATCH", f"/v3/{kind}/x", {}, status=403)
    admin.call("DELETE", f"/v3/{kind}/x", status=403)
