"""The first start, and every later one: APIs that start at the same moment, on one or on several machines."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from kilonova.cli.parts.api import bootstrap
from kilonova.cli.state import Folder
from kilonova.config import Config
from kilonova.domain.identity import DEFAULT_DOMAIN
from kilonova.identity import passwords
from kilonova.identity.service import Identity
from kilonova.store import roles, users
from kilonova.store.database import Database

ROLES = ["admin", "member", "reader", "service"]
Start = Callable[[Path], bool]


@pytest.fixture
def url(new_url: Callable[..., str]) -> str:
    return new_url()


def start(url: str, folder: Path) -> bool:
    """As an API process does it; whether it tells the operator that the credentials are in its folder."""
    db = Database(url)
    try:
        return bootstrap(db, Identity(db, Config(), folder / "keys"), Folder(folder))
    finally:
        db.close()


def admin_has(url: str, password: str) -> bool:
    db = Database(url)
    with db.read() as conn:
        admin = users.by_name(conn, DEFAULT_DOMAIN, "admin")
    db.close()
    return admin is not None and passwords.matches(admin.password_hash, password)


def role_names(url: str) -> list[str]:
    db = Database(url)
    with db.read() as conn:
        found = sorted(role.name for role in roles.listed(conn))
    db.close()
    return found


def run_sql(url: str, statement: str) -> None:
    db = Database(url)
    with db.write() as conn:
        conn.execute(sa.text(statement))
    db.close()


def test_of_several_that_start_at_once_one_folder_has_the_password(url: str, tmp_path: Path) -> None:
    """Four machines, and two APIs on each."""
    folders = [tmp_path / name for name in "abcd"]
    for folder in folders:
        folder.mkdir()
    begin = threading.Barrier(2 * len(folders))

    def run(folder: Path) -> bool:
        begin.wait()
        return start(url, folder)

    with ThreadPoolExecutor(2 * len(folders)) as pool:
        told = list(pool.map(run, [*folders, *folders]))
    kept = [folder for folder in folders if (folder / "admin-password").exists()]
    assert len(kept) == 1
    assert admin_has(url, (kept[0] / "admin-password").read_text().strip())
    assert told == [folder in kept for folder in [*folders, *folders]]
    assert role_names(url) == ROLES
    for folder in folders:
        left = {one.name for one in folder.iterdir()} - {"keys", "admin-password", "admin-password.lock"}
        assert left == set(), "no password that is none"
    assert [start(url, folder) for folder in folders] == [folder in kept for folder in folders]


def test_roles_that_an_older_release_did_not_make(url: str, tmp_path: Path) -> None:
    """Made by whichever starts, also where another made the admin."""
    assert start(url, tmp_path / "first")
    run_sql(url, "DELETE FROM roles WHERE name = 'service'")
    begin = threading.Barrier(6)

    def run(number: int) -> bool:
        begin.wait()
        return start(url, tmp_path / str(number))

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(run, range(6))) == [False] * 6
    assert role_names(url) == ROLES
    assert [path.name for path in tmp_path.glob("*/admin-password")] == ["admin-password"]


def test_a_password_that_was_changed_is_not_told_any_more(url: str, tmp_path: Path) -> None:
    assert start(url, tmp_path / "state")
    db = Database(url)
    with db.write() as conn:
        admin = users.by_name(conn, DEFAULT_DOMAIN, "admin")
        assert admin is not None
        users.update(conn, admin.id, {"password_hash": passwords.hashed("another")})
    db.close()
    assert not start(url, tmp_path / "state")
    assert admin_has(url, "another")


@pytest.mark.parametrize("made", [True, False], ids=["after it was made", "before it was made"])
def test_who_dies_in_the_midst_has_told_nothing_and_loses_nothing(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: bool
) -> None:
    own = Identity.bootstrap

    class Died(BaseException):
        pass

    def dies(identity: Identity, password: str | None) -> bool:
        if made:
            own(identity, password)
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Identity, "bootstrap", dies)
        with pytest.raises(Died):
            start(url, tmp_path / "first")
    assert not (tmp_path / "first" / "admin-password").exists()
    assert start(url, tmp_path / "second") is not made
    assert start(url, tmp_path / "first") is made
    (kept,) = tmp_path.glob("*/admin-password")
    assert admin_has(url, kept.read_text().strip())
