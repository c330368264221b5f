"""Key pairs."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from kilonova.config import Config, Quota
from kilonova.domain.errors import NotFound
from kilonova.store import keypairs
from kilonova.store.database import Database

BLOB = "AAAAC3NzaC1lZDI1NTE5AAAAICVtUvQRfANQDcTmr+PClOz/XQsBS7lqD+XUuYzisym6"
KEY = f"ssh-ed25519 {BLOB} someone@somewhere"
MEMBER, OTHER = "e" * 32, "f" * 32


@pytest.fixture
def config() -> Config:
    return Config(quota=Quota(key_pairs=3))


def add(caller: Any, name: str = "k", version: str = "2.92", **more: Any) -> Any:
    return caller.post("/os-keypairs", {"keypair": {"name": name, "public_key": KEY} | more}, version=version)


def names(answer: Any) -> list[str]:
    return [one["keypair"]["name"] for one in answer.json["keypairs"]]


def test_import_by_microversion(member: Any) -> None:
    old = add(member, "old", version="2.1")
    assert old.status_code == 200
    assert old.json["keypair"] == {
        "name": "old",
        "public_key": KEY,
        # What ssh-keygen -E md5 -lf says of it.
        "fingerprint": "b0:cf:2b:1e:4a:b4:79:6f:9f:8c:a6:5e:51:cf:87:41",
        "user_id": MEMBER,
    }
    new = add(member, "new", version="2.2", type="ssh")
    assert (new.status_code, new.json["keypair"]["type"]) == (201, "ssh")


def test_show_list_delete(member: Any) -> None:
    add(member)
    shown = member.get("/os-keypairs/k", version="2.2").json["keypair"]
    assert (shown["name"], shown["type"], shown["deleted"], shown["user_id"]) == ("k", "ssh", False, MEMBER)
    assert isinstance(shown["id"], int)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", shown["created_at"])
    assert names(member.get("/os-keypairs")) == ["k"]
    assert member.delete("/os-keypairs/k", version="2.2").status_code == 204
    gone = member.get("/os-keypairs/k")
    assert gone.json["itemNotFound"]["message"] == f"Keypair k not found for user {MEMBER}"
    assert member.delete("/os-keypairs/k").status_code == 404
    add(member)
    assert member.delete("/os-keypairs/k", version="2.1").status_code == 202


def test_the_store_gives_the_key(member: Any, database: Database) -> None:
    add(member)
    with database.read() as conn:
        assert keypairs.get(conn, MEMBER, "k").public_key == KEY
        with pytest.raises(NotFound):
            keypairs.get(conn, OTHER, "k")


def test_a_key_is_made_until_291(member: Any) -> None:
    made = member.post("/os-keypairs", {"keypair": {"name": "k"}}, version="2.91").json["keypair"]
    private = serialization.load_pem_private_key(made["private_key"].encode(), None)
    public = private.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    assert made["public_key"] == f"{public.decode()} Generated-by-Kilonova"
    assert "private_key" not in member.get("/os-keypairs/k").json["keypair"]
    assert member.post("/os-keypairs", {"keypair": {"name": "l"}}, version="2.92").status_code == 400


def test_names(member: Any) -> None:
    assert add(member, "a@b.c", version="2.91").status_code == 400
    assert add(member, "a@b.c", version="2.92").status_code == 201
    assert member.get("/os-keypairs/a@b.c").status_code == 200
    for wrong in ("", " a", "a/b", "<a>", "a\x00", "é", "x" * 256, None, 5, "a\n"):
        assert add(member, wrong).status_code == 400, wrong


@pytest.mark.parametrize(
    "key",
    [
        "",
        "ssh-rsa",
        "ssh-rsa bogus",
        f"ssh-rsa {BLOB}",
        f" {KEY}",
        f"{KEY}\n{KEY}",
        f"{KEY}\x00",
        f"ssh-ed25519 {BLOB[:-8]} cut",
        "-----BEGIN CERTIFICATE-----",
        5,
        None,
    ],
)
def test_refuses_what_is_no_key(member: Any, key: Any) -> None:
    body = {"keypair": {"name": "k", "public_key": key}}
    assert member.post("/os-keypairs", body).status_code == 400


def test_a_key_as_a_file_ends(member: Any) -> None:
    assert add(member, public_key=f"{KEY}\n").json["keypair"]["public_key"] == f"{KEY}\n"
    assert add(member, "l", public_key=KEY.rpartition(" ")[0]).status_code == 201


def test_only_ssh(member: Any) -> None:
    answer = add(member, type="x509")
    assert answer.status_code == 400
    assert "x509" in answer.json["badRequest"]["message"]
    assert add(member, type="other").status_code == 400
    assert add(member, version="2.1", type="ssh").status_code == 400


def test_an_admin_acts_for_a_user(admin: Any, member: Any) -> None:
    assert add(admin, user_id=MEMBER).json["keypair"]["user_id"] == MEMBER
    assert names(member.get("/os-keypairs")) == ["k"]
    assert names(admin.get(f"/os-keypairs?user_id={MEMBER}", version="2.10")) == ["k"]
    assert names(admin.get(f"/os-keypairs?user_id={MEMBER}", version="2.9")) == []
    assert admin.get(f"/os-keypairs/k?user_id={MEMBER}", version="2.10").status_code == 200
    assert admin.delete(f"/os-keypairs/k?user_id={MEMBER}", version="2.10").status_code == 204


def test_a_user_acts_for_itself_only(member: Any, other: Any) -> None:
    add(member)
    assert other.get("/os-keypairs/k").status_code == 404
    answers = [
        add(other, user_id=MEMBER),
        other.get(f"/os-keypairs?user_id={MEMBER}", version="2.10"),
        other.get(f"/os-keypairs/k?user_id={MEMBER}", version="2.10"),
        other.delete(f"/os-keypairs/k?user_id={MEMBER}", version="2.10"),
    ]
    assert [answer.status_code for answer in answers] == [403] * 4


def test_pages(member: Any) -> None:
    for name in "bac":
        add(member, name)
    first = member.get("/os-keypairs?limit=2", version="2.35")
    assert names(first) == ["a", "b"]
    (link,) = first.json["keypairs_links"]
    path = link["href"].removeprefix("http://falconframework.org/compute/v2.1")
    last = member.get(path, version="2.35")
    assert names(last) == ["c"]
    assert "keypairs_links" not in last.json
    assert len(names(member.get("/os-keypairs?limit=1", version="2.34"))) == 3
    assert member.get("/os-keypairs?marker=no", version="2.35").status_code == 400


def test_a_name_is_taken_once(member: Any, other: Any) -> None:
    add(member)
    again = add(member)
    assert again.json["conflictingRequest"]["message"] == "Key pair 'k' already exists."
    assert add(other).status_code == 201


def test_quota_holds_under_a_race(member: Any) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: add(member, f"k{number}"), range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [403] * 5
    refused = next(answer for answer in answers if answer.status_code == 403)
    assert refused.json["forbidden"]["message"] == "Quota exceeded, too many key pairs."
