"""Whatever is sent about servers, the answer is no 5xx, and an error is in Nova's fault format."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

import falcon.testing
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

IMAGE = "11111111-2222-3333-4444-555555555555"
NETWORK = "99999999-2222-3333-4444-555555555555"

SETTINGS = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

versions = st.sampled_from(
    [
        "2.1",
        "2.19",
        "2.32",
        "2.37",
        "2.42",
        "2.52",
        "2.57",
        "2.63",
        "2.67",
        "2.74",
        "2.75",
        "2.90",
        "2.94",
        "2.100",
        "2.104",
    ]
)
numbers = st.one_of(st.integers(-3, 3), st.sampled_from([2**31, 2**63, 2**64, -(2**64), 10**400, 1e308, 0.5]))
words = st.sampled_from(
    [
        "",
        " ",
        "a",
        "\x00",
        "é",
        "☃",
        "\ud800",
        "😀",
        "<x>",
        "../..",
        "$(id)",
        "'",
        '"',
        "%s",
        "9" * 5000,
        "x" * 300,
        IMAGE,
        NETWORK,
        "auto",
        "none",
        "local",
        "image",
        "nova:h:n",
        "10.0.0.1",
        "::1",
        "True",
        "1",
        "-1",
    ]
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, words, st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
    max_leaves=5,
)


def near(*names: str, keep: dict[str, Any] | None = None) -> st.SearchStrategy[dict[str, Any]]:
    """An object with some of the right fields, anything in them, and perhaps a wrong one."""
    fields = st.dictionaries(st.sampled_from(names) | words, values, max_size=4)
    return fields.map(lambda found: (keep or {}) | found)


networks = st.lists(near("uuid", "port", "fixed_ip", "tag", keep={"uuid": NETWORK}), max_size=3) | values
DEVICE = {"uuid": IMAGE, "boot_index": 0, "source_type": "image", "destination_type": "local"}
devices = st.lists(
    near(
        *(
            "uuid",
            "boot_index",
            "source_type",
            "destination_type",
            "volume_size",
            "guest_format",
            "no_device",
        ),
        *("tag", "volume_type", "delete_on_termination", "device_name", "volume_id", "disk_bus"),
        keep=DEVICE,
    ),
    max_size=3,
)
SERVER = {"name": "vm", "imageRef": IMAGE, "flavorRef": "42", "networks": "none"}
server = st.builds(
    lambda base, own, nets, disks: base | own | nets | disks,
    st.sampled_from([SERVER, SERVER | {"networks": []}]),
    near(
        *("name", "imageRef", "flavorRef", "adminPass", "metadata", "OS-DCF:diskConfig", "accessIPv4"),
        *("accessIPv6", "availability_zone", "block_device_mapping", "config_drive", "key_name", "min_count"),
        *("max_count", "return_reservation_id", "security_groups", "user_data", "description", "tags"),
        *("personality", "trusted_image_certificates", "host", "hypervisor_hostname", "hostname"),
    ),
    st.just({}) | networks.map(lambda found: {"networks": found}),
    st.just({}) | devices.map(lambda found: {"block_device_mapping_v2": found}),
)
hints = near("group", "different_host", "same_host", "query", "cidr", "target_cell", "build_near_host_ip")
create_bodies = st.one_of(
    st.builds(lambda inner: {"server": inner}, server),
    st.builds(lambda inner, more: {"server": inner, "os:scheduler_hints": more}, server, hints | values),
    values,
)
ACTIONS = (
    *("os-start", "os-stop", "reboot", "pause", "unpause", "suspend", "resume", "lock", "unlock", "restore"),
    *("os-resetState", "os-getConsoleOutput", "rebuild", "resize", "createImage"),
)
action_bodies = st.one_of(
    st.dictionaries(
        st.sampled_from(ACTIONS) | words,
        values | near("type", "length", "state", "locked_reason"),
        max_size=2,
    ),
    values,
)
OTHERS = {
    ("PUT", ""): near(
        *("name", "description", "hostname", "accessIPv4", "accessIPv6", "OS-DCF:diskConfig"),
        "pinned_availability_zone",
    ).map(lambda found: {"server": found}),
    ("POST", "/metadata"): st.dictionaries(words, words | values, max_size=3).map(lambda m: {"metadata": m}),
    ("PUT", "/metadata"): values,
    ("PUT", "/metadata/a"): st.dictionaries(st.just("a") | words, values, max_size=2).map(
        lambda m: {"meta": m}
    ),
    ("PUT", "/tags"): st.lists(words, max_size=3).map(lambda tags: {"tags": tags}) | values,
}
FILTERS = (
    *("name", "status", "image", "flavor", "ip", "ip6", "changes-since", "changes-before", "all_tenants"),
    *("reservation_id", "tags", "not-tags", "locked", "availability_zone", "power_state", "vm_state", "host"),
    *("created_at", "launched_at", "progress", "config_drive", "hostname", "key_name", "user_id", "uuid"),
    *("deleted", "sort_key", "sort_dir", "limit", "marker", "node", "launch_index", "soft_deleted"),
)


def send(caller: Any, method: str, path: str, version: str, body: Any) -> None:
    """As ASCII: lone surrogates travel as escapes, as an attacker sends them."""
    raw = json.dumps(body, ensure_ascii=True).encode()
    check(caller.ask(method, path, version, body=raw))


def check(answer: falcon.testing.Result) -> None:
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        ((_, fault),) = answer.json.items()
        assert fault["code"] == answer.status_code
        assert fault["message"]


@given(body=create_bodies, version=versions, who=st.sampled_from(["admin", "member"]))
@SETTINGS
def test_create(
    body: Any, version: str, who: str, request: pytest.FixtureRequest, admin: Any, member: Any, database: Any
) -> None:
    caller = request.getfixturevalue(who)
    send(caller, "POST", "/servers", version, body)
    check(caller.get("/servers/detail", version=version))


@given(raw=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@SETTINGS
def test_create_of_bytes(raw: bytes, member: Any) -> None:
    check(member.ask("POST", "/servers", "2.100", body=raw))


@given(body=action_bodies, version=versions)
@SETTINGS
def test_actions(body: Any, version: str, admin: Any, one: str) -> None:
    send(admin, "POST", f"/servers/{one}/action", version, body)


@pytest.mark.parametrize(("method", "path"), OTHERS)
@given(data=st.data(), version=versions)
@settings(SETTINGS, max_examples=60)
def test_changes(method: str, path: str, data: st.DataObject, version: str, member: Any, one: str) -> None:
    body = data.draw(OTHERS[method, path])
    send(member, method, f"/servers/{one}{path}", version, body)


@given(
    asked=st.lists(st.tuples(st.sampled_from(FILTERS), words | st.text(max_size=8)), max_size=3),
    version=versions,
    who=st.sampled_from(["admin", "member"]),
)
@SETTINGS
def test_queries(
    asked: Any, version: str, who: str, request: pytest.FixtureRequest, admin: Any, member: Any, one: str
) -> None:
    query = urlencode(asked, errors="replace")
    check(request.getfixturevalue(who).get(f"/servers/detail?{query}", version=version))
    check(request.getfixturevalue(who).get(f"/servers/{one}/os-instance-actions?{query}", version=version))


@given(word=words | st.text(max_size=8), version=versions)
@SETTINGS
def test_paths(word: str, version: str, member: Any, one: str) -> None:
    name = quote(word, safe="", errors="replace")
    for path in (f"/servers/{name}", f"/servers/{one}/metadata/{name}", f"/servers/{one}/ips/{name}"):
        check(member.get(path, version=version))
    check(member.put(f"/servers/{one}/tags/{name}", version=version))
    check(member.delete(f"/servers/{one}/tags/{name}", version=version))
    check(member.get(f"/servers/{one}/os-instance-actions/{name}", version=version))


@pytest.fixture
def one(active: Any, console: Any, admin: Any) -> str:
    """A server to be mistreated; the quota is no help."""
    return str(active())
