"""Flavors, who sees which, and their extra specs."""

from __future__ import annotations

from typing import Any

import pytest

from kilonova.domain.errors import NotFound
from kilonova.store import flavors
from kilonova.store.database import Database

NEW = {"name": "big", "id": "big", "ram": 1024, "vcpus": 2, "disk": 10}
MEMBER_PROJECT = "a" * 32


def make(admin: Any, version: str = "2.1", **more: Any) -> Any:
    return admin.post("/flavors", {"flavor": NEW | more}, version=version)


def ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [one["id"] for one in answer.json["flavors"]]


def test_the_default_flavors_are_made_once(database: Database) -> None:
    with database.write() as conn:
        flavors.delete(conn, "42")
        flavors.seed(conn)
        with pytest.raises(NotFound):
            flavors.get(conn, "42")
        assert flavors.get(conn, "1").memory_mb == 512


def test_show_by_microversion(admin: Any) -> None:
    make(admin, swap="512", rxtx_factor="1.5", **{"OS-FLV-EXT-DATA:ephemeral": 3})
    old = admin.get("/flavors/big").json["flavor"]
    assert old["ram"], old["disk"] == (1024, 10)
    assert (old["swap"], old["rxtx_factor"], old["OS-FLV-EXT-DATA:ephemeral"]) == (512, 1.5, 3)
    assert old["OS-FLV-DISABLED:disabled"] is False
    assert old["os-flavor-access:is_public"] is True
    assert [link["href"] for link in old["links"]] == [
        "http://falconframework.org/compute/v2.1/flavors/big",
        "http://falconframework.org/compute/flavors/big",
    ]
    new = admin.get("/flavors/big", version="2.102").json["flavor"]
    assert new.keys() - old.keys() == {"description", "extra_specs"}
    assert old.keys() - new.keys() == {"rxtx_factor", "OS-FLV-DISABLED:disabled"}


def test_no_swap_is_a_word_before_it_is_a_number(member: Any) -> None:
    assert member.get("/flavors/1", version="2.74").json["flavor"]["swap"] == ""
    assert member.get("/flavors/1", version="2.75").json["flavor"]["swap"] == 0


def test_create_completes_and_keeps(admin: Any) -> None:
    for number, no_id in enumerate(({}, {"id": None})):
        body = {key: value for key, value in NEW.items() if key != "id"} | no_id | {"name": f"n{number}"}
        made = admin.post("/flavors", {"flavor": body}).json["flavor"]
        assert len(made["id"]) == 36
        assert admin.get(f"/flavors/{made['id']}").json["flavor"] == made
    assert make(admin, id=7.5, name="seven").json["flavor"]["id"] == "7.5"


def test_create_refuses_what_exists(admin: Any) -> None:
    assert make(admin).status_code == 200
    for clash in ({"name": "x"}, {"id": "x"}):
        answer = make(admin, **clash)
        assert (answer.status_code, list(answer.json)) == (409, ["conflictingRequest"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": " a"},
        {"name": "a\x00b"},
        {"name": "a\nb"},
        {"name": "x" * 256},
        {"name": 5},
        {"name": None},
        {"id": ""},
        {"id": " a"},
        {"id": "a/b"},
        {"id": "<xml>"},
        {"id": "x" * 256},
        {"id": []},
        {"ram": 0},
        {"ram": -1},
        {"ram": "1.5"},
        {"ram": True},
        {"ram": 0x80000000},
        {"ram": 10**30},
        {"ram": "9" * 5000},
        {"vcpus": 0},
        {"vcpus": "x"},
        {"disk": -1},
        {"disk": None},
        {"swap": -1},
        {"rxtx_factor": 0},
        {"rxtx_factor": "-1"},
        {"rxtx_factor": 1e39},
        {"OS-FLV-EXT-DATA:ephemeral": -1},
        {"os-flavor-access:is_public": "maybe"},
        {"description": "not before 2.55"},
        {"unknown": 1},
    ],
)
def test_create_refuses_bad_values(admin: Any, wrong: dict[str, Any]) -> None:
    answer = make(admin, **wrong)
    assert answer.status_code == 400, answer.text
    assert answer.json["badRequest"]["message"]


def test_names_are_any_printable_text(admin: Any) -> None:
    for number, name in enumerate(
        ("<b>&amp;</b>", "$(reboot); `ls`", "../../etc/passwd", "Größe ☃", "'\"--")
    ):
        assert make(admin, name=name, id=str(number + 100)).json["flavor"]["name"] == name


def test_description(admin: Any) -> None:
    assert make(admin, version="2.55", description="d").json["flavor"]["description"] == "d"
    assert admin.put("/flavors/big", {"flavor": {"description": None}}, version="2.54").status_code == 404
    done = admin.put("/flavors/big", {"flavor": {"description": None}}, version="2.55")
    assert done.json["flavor"]["description"] is None
    for body in ({"flavor": {}}, {"flavor": {"description": "a\nb"}}, {"flavor": {"ram": 1}}, {}, []):
        assert admin.put("/flavors/big", body, version="2.55").status_code == 400
    assert admin.put("/flavors/no", {"flavor": {"description": "d"}}, version="2.55").status_code == 404


def test_only_an_admin_writes(member: Any) -> None:
    answers = [
        make(member),
        member.delete("/flavors/1"),
        member.put("/flavors/1", {"flavor": {"description": "d"}}, version="2.55"),
        member.post("/flavors/1/os-extra_specs", {"extra_specs": {"a": "b"}}),
        member.put("/flavors/1/os-extra_specs/a", {"a": "b"}),
        member.delete("/flavors/1/os-extra_specs/a"),
        member.get("/flavors/1/os-flavor-access"),
        member.post("/flavors/1/action", {"addTenantAccess": {"tenant": MEMBER_PROJECT}}),
    ]
    assert [answer.status_code for answer in answers] == [403] * len(answers)
    assert answers[0].json["forbidden"]["message"] == (
        "Policy doesn't allow os_compute_api:os-flavor-manage:create to be performed."
    )


def test_delete(admin: Any) -> None:
    assert admin.delete("/flavors/1").status_code == 202
    assert admin.delete("/flavors/1").status_code == 404
    assert admin.get("/flavors/1").json["itemNotFound"]["message"] == "Flavor 1 could not be found."


def test_private_flavors_are_for_whom_they_were_given(admin: Any, member: Any, other: Any) -> None:
    make(admin, **{"os-flavor-access:is_public": False})
    assert member.get("/flavors/big").status_code == 404
    assert "big" not in ids(member.get("/flavors?is_public=None"))
    given = admin.post("/flavors/big/action", {"addTenantAccess": {"tenant": MEMBER_PROJECT}})
    assert given.json == {"flavor_access": [{"flavor_id": "big", "tenant_id": MEMBER_PROJECT}]}
    assert member.get("/flavors/big").status_code == 200
    assert "big" in ids(member.get("/flavors"))
    assert other.get("/flavors/big").status_code == 404
    assert other.get("/flavors/big/os-extra_specs").status_code == 404
    assert admin.get("/flavors/big/os-flavor-access").json == given.json
    taken = admin.post("/flavors/big/action", {"removeTenantAccess": {"tenant": MEMBER_PROJECT}})
    assert taken.json == {"flavor_access": []}
    assert member.get("/flavors/big").status_code == 404


def test_access_refuses(admin: Any) -> None:
    make(admin, **{"os-flavor-access:is_public": False})
    grant = {"addTenantAccess": {"tenant": MEMBER_PROJECT}}
    assert admin.get("/flavors/1/os-flavor-access").status_code == 404
    assert admin.post("/flavors/1/action", grant, version="2.6").status_code == 200
    assert admin.post("/flavors/1/action", grant, version="2.7").status_code == 409
    assert admin.post("/flavors/no/action", grant).status_code == 404
    assert admin.post("/flavors/big/action", grant).status_code == 200
    assert admin.post("/flavors/big/action", grant).status_code == 409
    missing = {"removeTenantAccess": {"tenant": "nobody"}}
    assert admin.post("/flavors/big/action", missing).status_code == 404
    wrong = [{}, {"addTenantAccess": {}}, {"addTenantAccess": {"tenant": "nobody"}}, {"other": {}}, None]
    assert [admin.post("/flavors/big/action", body).status_code for body in wrong] == [400] * len(wrong)


def test_list_filters(admin: Any, member: Any) -> None:
    make(admin, id="hidden", name="hidden", **{"os-flavor-access:is_public": False})
    assert ids(member.get("/flavors?minRam=4096")) == ["3", "4", "5"]
    assert ids(member.get("/flavors?minDisk=41&minRam=1")) == ["4", "5"]
    assert ids(admin.get("/flavors?is_public=false")) == ["hidden"]
    assert "hidden" in ids(admin.get("/flavors?is_public=None"))
    assert "hidden" not in ids(admin.get("/flavors"))
    assert ids(member.get("/flavors?name=%5Em1%5C.n", version="2.102")) == ["42"]
    assert len(ids(member.get("/flavors?name=%5Em1%5C.n", version="2.74"))) == 6
    for query in ("minRam=x", "minDisk=1.5", f"minRam={'9' * 40}", "is_public=maybe", "marker=no"):
        assert admin.get(f"/flavors?{query}").status_code == 400
    for pattern in ("(", "(a%2B)%2B%5C1", "a" * 300, "%00"):
        assert member.get(f"/flavors?name={pattern}", version="2.102").status_code == 400


def test_a_pattern_cannot_keep_the_service_busy(admin: Any, member: Any) -> None:
    make(admin, name="a" * 255)
    assert ids(member.get("/flavors?name=(a%7Caa)%2B%24(a*)*b", version="2.102")) == []


def test_pages(member: Any) -> None:
    seen: list[str] = []
    path = "/flavors/detail?limit=2&sort_key=memory_mb&sort_dir=desc"
    for _ in range(4):
        answer = member.get(path, version="2.61")
        seen += ids(answer)
        if "flavors_links" not in answer.json:
            break
        (link,) = answer.json["flavors_links"]
        assert link["rel"] == "next"
        path = link["href"].removeprefix("http://falconframework.org/compute/v2.1")
    assert seen == ["5", "4", "3", "2", "1", "42"]
    assert ids(member.get("/flavors?limit=0")) == []
    assert len(ids(member.get(f"/flavors?limit={'9' * 5000}"))) == 6
    for query in ("limit=-1", "limit=x", "limit=", "limit=1&limit=x", "sort_key=no", "sort_dir=up"):
        assert member.get(f"/flavors?{query}").status_code == 400


def test_every_sort_key_gives_all(member: Any) -> None:
    for key in flavors.SORT_KEYS:
        first = ids(member.get(f"/flavors?sort_key={key}&limit=3"))
        rest = ids(member.get(f"/flavors?sort_key={key}&marker={first[-1]}"))
        assert sorted(first + rest) == ["1", "2", "3", "4", "42", "5"], key


def test_extra_specs(admin: Any, member: Any) -> None:
    path = "/flavors/1/os-extra_specs"
    sent = {"extra_specs": {"hw:cpu_sockets": 2, "mine": "a b"}}
    assert admin.post(path, sent).json == sent
    assert member.get(path).json == {"extra_specs": {"hw:cpu_sockets": "2", "mine": "a b"}}
    assert admin.put(f"{path}/mine", {"mine": "c"}).json == {"mine": "c"}
    assert member.get(f"{path}/mine").json == {"mine": "c"}
    assert member.get("/flavors/1", version="2.61").json["flavor"]["extra_specs"]["mine"] == "c"
    assert admin.delete(f"{path}/mine").status_code == 200
    for answer in (
        member.get(f"{path}/mine"),
        admin.delete(f"{path}/mine"),
        member.get("/flavors/0/os-extra_specs"),
    ):
        assert answer.status_code == 404


@pytest.mark.parametrize(
    "specs",
    [
        {"a/b": "c"},
        {"": "c"},
        {"x" * 256: "c"},
        {"a\n": "c"},
        {"a": "x" * 256},
        {"a": None},
        {"a": True},
        {"a": {}},
        {"a": "\x00"},
        [],
        None,
    ],
)
def test_extra_specs_refuse(admin: Any, specs: Any) -> None:
    assert admin.post("/flavors/1/os-extra_specs", {"extra_specs": specs}).status_code == 400


def test_the_key_in_the_path_is_the_key_in_the_body(admin: Any) -> None:
    for body in ({"b": "1"}, {"a": "1", "b": "2"}, {}):
        assert admin.put("/flavors/1/os-extra_specs/a", body).status_code == 400


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("hw:cpu_policy", "dedicated", "mine"),
        ("hw:cpu_sockets", "2", "0"),
        ("hw:numa_nodes", "1", "one"),
        ("hw:numa_cpus.0", "0-3,^2", "0-,"),
        ("hw:mem_page_size", "2MB", "huge"),
        ("hw:boot_menu", "true", "perhaps"),
        ("hw_rng:allowed", "False", "x"),
        ("quota:cpu_quota", "-1", "x"),
        ("quota:vif_inbound_peak", "5", "-5"),
        ("resources:VCPU", "2", "two"),
        ("resources1:CUSTOM_GOLD", "0", ""),
        ("trait:HW_CPU_X86_AVX2", "required", "yes"),
        ("os:secure_boot", "required", "optional"),
    ],
)
def test_known_specs_are_checked_since_286(admin: Any, name: str, good: str, bad: str) -> None:
    def post(value: str, version: str) -> int:
        status: int = admin.post(
            "/flavors/1/os-extra_specs", {"extra_specs": {name: value}}, version=version
        ).status_code
        return status

    assert [post(good, "2.86"), post(bad, "2.85"), post(bad, "2.86")] == [200, 200, 400]


def test_unknown_specs_of_known_namespaces_are_refused_since_286(admin: Any) -> None:
    for name, status in {"hw:numa_node": 400, "resources:vcpu": 400, "other:x": 200, "x": 200}.items():
        answer = admin.post("/flavors/1/os-extra_specs", {"extra_specs": {name: "1"}}, version="2.86")
        assert answer.status_code == status, name
