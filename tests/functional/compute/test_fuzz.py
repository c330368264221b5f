"""No input makes a 5xx: bodies, query strings and paths of every shape, at old and new microversions."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

import falcon.testing
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SETTINGS = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

numbers = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**31 - 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 1e308, 0.5]),
)
nasty = st.sampled_from(
    [
        "",
        " ",
        "1",
        "-1",
        "a",
        "\x00",
        "é",
        "☃",
        "<x>",
        "../..",
        "$(id)",
        "'",
        '"',
        "%s",
        "9" * 5000,
        "x" * 300,
    ]
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, nasty, st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(nasty, inner, max_size=3)),
    max_leaves=4,
)


def body_of(wrapper: str, *fields: str) -> st.SearchStrategy[Any]:
    """A body that is nearly right: the right wrapper, some of the right fields, anything in them."""
    right = st.dictionaries(st.sampled_from(fields) | nasty, values, max_size=len(fields))
    return st.one_of(st.builds(lambda inner: {wrapper: inner}, right | values), values)


FLAVOR = (
    *("name", "id", "ram", "vcpus", "disk", "swap", "rxtx_factor", "description"),
    *("OS-FLV-EXT-DATA:ephemeral", "os-flavor-access:is_public"),
)
SERVICE = ("host", "binary", "status", "disabled_reason", "forced_down")
BODIES = {
    ("POST", "/flavors"): body_of("flavor", *FLAVOR),
    ("PUT", "/flavors/1"): body_of("flavor", "description"),
    ("POST", "/flavors/1/action"): body_of("addTenantAccess", "tenant")
    | body_of("removeTenantAccess", "tenant"),
    ("POST", "/flavors/1/os-extra_specs"): body_of("extra_specs", "hw:cpu_cores", "hw:numa_cpus.0", "a"),
    ("PUT", "/flavors/1/os-extra_specs/a"): st.dictionaries(st.just("a") | nasty, values, max_size=2),
    ("POST", "/os-keypairs"): body_of("keypair", "name", "public_key", "type", "user_id"),
    ("PUT", f"/os-quota-sets/{'a' * 32}"): body_of("quota_set", "cores", "ram", "force", "fixed_ips"),
    ("PUT", "/os-quota-class-sets/default"): body_of("quota_class_set", "cores", "ram", "injected_files"),
    ("PUT", "/os-services/enable"): st.dictionaries(st.sampled_from(SERVICE), values),
    ("PUT", "/os-services/force-down"): st.dictionaries(st.sampled_from(SERVICE), values),
    ("PUT", "/os-services/0a0a0a0a-0000-4000-8000-000000000000"): st.dictionaries(
        st.sampled_from(SERVICE), values
    ),
}
versions = st.sampled_from(["2.1", "2.35", "2.52", "2.53", "2.61", "2.86", "2.91", "2.92", "2.104"])


@pytest.mark.parametrize(("method", "path"), BODIES)
@SETTINGS
@given(data=st.data())
def test_bodies(admin: Any, method: str, path: str, data: st.DataObject) -> None:
    body, version = data.draw(BODIES[method, path]), data.draw(versions)
    answer = admin.ask(method, path, version, json=body)
    assert answer.status_code < 500, (body, answer.text)
    if answer.status_code >= 400:
        (fault,) = answer.json.values()
        assert fault["code"] == answer.status_code
        assert fault["message"]


@pytest.mark.parametrize(("method", "path"), BODIES)
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a": NaN}',
        b'"\\ud800"',
        b'{"flavor": {"name": "\\ud800"}}',
        b"1e999",
    ],
)
def test_what_is_no_json(admin: Any, method: str, path: str, raw: bytes) -> None:
    answer = admin.ask(method, path, "2.53", body=raw, headers={"Content-Type": "application/json"})
    assert answer.status_code in {400, 404}, answer.text


def test_bodies_that_are_too_big_or_of_another_kind(admin: Any) -> None:
    big = admin.ask("POST", "/flavors", "2.1", body=b" " * 200_000)
    assert (big.status_code, list(big.json)) == (413, ["overLimit"])
    xml = admin.ask("POST", "/flavors", "2.1", body=b"<x/>", headers={"Content-Type": "application/xml"})
    assert (xml.status_code, list(xml.json)) == (415, ["badMediaType"])


LISTS = {
    "/flavors": ("limit", "marker", "is_public", "minRam", "minDisk", "sort_key", "sort_dir", "name"),
    "/flavors/detail": ("limit", "marker", "name", "sort_key"),
    "/os-keypairs": ("limit", "marker", "user_id"),
    "/os-hypervisors": ("limit", "marker", "hypervisor_hostname_pattern", "with_servers"),
    "/os-services": ("host", "binary"),
    "/limits": ("tenant_id",),
    f"/os-quota-sets/{'a' * 32}": ("user_id",),
}
words = (
    nasty | st.text(max_size=10) | st.sampled_from(["true", "None", "id", "name", "vcpus", "desc", "(", "[a"])
)


@pytest.mark.parametrize("path", LISTS)
@SETTINGS
@given(data=st.data())
def test_query_strings(admin: Any, path: str, data: st.DataObject) -> None:
    given_ = data.draw(st.lists(st.tuples(st.sampled_from(LISTS[path]) | nasty, words), max_size=4))
    version = data.draw(versions)
    query = urlencode(given_, errors="replace")
    answer = admin.get(f"{path}?{query}", version=version)
    assert answer.status_code < 500, (query, answer.text)


@SETTINGS
@given(
    word=words,
    template=st.sampled_from(
        [
            "/flavors/{}",
            "/flavors/{}/os-extra_specs",
            "/flavors/1/os-extra_specs/{}",
            "/os-keypairs/{}",
            "/os-quota-sets/{}",
            "/os-hypervisors/{}",
            "/os-hypervisors/{}/search",
            "/extensions/{}",
            "/flavors/{}/os-flavor-access",
            "/os-quota-class-sets/{}",
            "/{}",
        ]
    ),
    version=versions,
)
def test_paths(admin: Any, client: falcon.testing.TestClient, word: str, template: str, version: str) -> None:
    path = template.format(quote(word, safe="", errors="replace"))
    for method in ("GET", "DELETE"):
        answer = admin.ask(method, path.replace("?", "%3F"), version)
        assert answer.status_code < 500, (path, answer.text)
