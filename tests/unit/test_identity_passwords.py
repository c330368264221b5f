"""Hashes of secrets: what matches, and what an attacker cannot tell."""

from __future__ import annotations

import pytest

from kilonova.identity import passwords


def test_a_secret_matches_its_own_hash_only():
    secret_hash = passwords.hashed("sésame")
    assert "sésame" not in secret_hash
    assert secret_hash != passwords.hashed("sésame")
    assert passwords.matches(secret_hash, "sésame")
    assert not passwords.matches(secret_hash, "sesame")
    assert not passwords.matches(secret_hash, "")


@pytest.mark.parametrize("broken", ["", "plain", "$argon2id$v=19$m=1,t=1,p=1$", "$2b$12$abc"])
def test_a_broken_hash_matches_nothing(broken):
    assert not passwords.matches(broken, "")
    assert not passwords.matches(broken, broken)


def test_an_unknown_account_costs_as_much_as_a_known_one(monkeypatch):
    known = passwords.hashed("right")
    passwords.matches(None, "warm")
    costs = []

    def verify(secret_hash: str, _secret: str) -> bool:
        costs.append(secret_hash.rsplit("$", 2)[0])
        return False

    monkeypatch.setattr(passwords, "_verify", verify)
    passwords.matches(known, "wrong")
    passwords.matches(None, "wrong")
    assert len(costs) == 2
    assert costs[0] == costs[1]  # the same algorithm, memory and passes


def test_a_secret_past_the_limit_is_not_hashed(monkeypatch):
    known = passwords.hashed("right")
    monkeypatch.setattr(passwords, "_verify", lambda *_: pytest.fail("hashed"))
    assert not passwords.matches(known, "x" * (passwords.MAX_LENGTH + 1))
