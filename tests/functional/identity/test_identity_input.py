"""Whatever comes in, the answer is the client's fault, never a 500; and a known token costs one statement."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.statements import sent

from kilonova.api.identity.routes import ROUTES

_TEXT = st.text(max_size=8) | st.sampled_from(
    ["default", "admin", "password", "../x", "a'--", "\0", "<a/>", "%00"]
)
_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)
_MEMBERS = ("auth", "domain", "project", "user", "group", "role", "application_credential", "tags")
_NAMES = (
    "name",
    "domain_id",
    "enabled",
    "description",
    "password",
    "roles",
    "expires_at",
    "parent_id",
    "tags",
)
_BODY = _VALUE | st.dictionaries(
    st.sampled_from(_MEMBERS), _VALUE | st.dictionaries(st.sampled_from(_NAMES), _VALUE), min_size=1
)
_WRITES = [route for route in ROUTES if route.method in ("POST", "PATCH", "PUT", "DELETE")]
_READS = [route for route in ROUTES if route.method == "GET"]
_QUERIES = st.dictionaries(
    st.sampled_from(
        ["name", "enabled", "domain_id", "user.id", "effective", "include_names", "tags", "limit"]
    ),
    _TEXT,
)
_SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _path(draw: st.DataObject, template: str) -> str:
    """The template with something from a client in each of its places."""
    for name in [part for part in template.split("/") if part.startswith("{")]:
        value = draw.draw(st.sampled_from(["default", "x", "a b", "ü", "%00", "%2e%2e", "'", "x" * 300]))
        template = template.replace(name, value)
    return template


@_SETTINGS
@given(data=st.data(), route=st.sampled_from(_WRITES), body=_BODY)
def test_writes(admin, data, route, body):
    result = admin.client.simulate_request(
        route.method,
        "/identity" + _path(data, route.path),
        json=body,
        headers={"X-Auth-Token": admin.token, "X-Subject-Token": "x"},
    )
    assert result.status_code < 500, (route, body, result.text)


@_SETTINGS
@given(data=st.data(), route=st.sampled_from(_READS), query=_QUERIES)
def test_reads(admin, data, route, query):
    result = admin.client.simulate_get(
        "/identity" + _path(data, route.path), params=query, headers={"X-Auth-Token": admin.token}
    )
    assert result.status_code < 500, (route, query, result.text)


def test_a_known_token_costs_one_statement(admin):
    identity = admin.identity
    identity.authenticate(admin.token, "req-1")
    with sent(identity.db) as seen:
        identity.authenticate(admin.token, "req-2")
    assert len(seen) == 1


def test_the_cache_stays_small(admin, monkeypatch):
    from kilonova.identity import service

    monkeypatch.setattr(service, "CACHED_TOKENS", 3)
    tokens = [
        admin.login(token={"id": admin.token}, scope="unscoped").headers["X-Subject-Token"] for _ in range(6)
    ]
    for token in tokens * 2:
        assert admin.identity.authenticate(token, "req").project_id is None
    assert len(admin.identity._known) == 3


@pytest.mark.parametrize("token", ["\0", "ü", "x" * 20_000, "gAAAAA==", " "])
def test_tokens_that_are_none(guest, token):
    from kilonova.domain.errors import Unauthorized

    with pytest.raises(Unauthorized):
        guest.identity.authenticate(token, "req")
