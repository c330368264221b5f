"""`kilonova cluster add-host` at a real API; the broker's tool is a script that notes what it is told."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.running import Up

from kilonova.cli import main
from kilonova.cli.cluster import hosts, machine
from kilonova.config import ServiceUser
from kilonova.domain.errors import Unavailable
from kilonova.image.http import HttpImages

_RABBITMQCTL = """\
#!/bin/sh
cat >/dev/null
test -e {folder}/broken && exit 1
echo "$@" >>{folder}/told
"""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    up = Up(tmp_path_factory.mktemp("up") / "state")
    up.start()
    yield up
    assert up.stop() == 0


@pytest.fixture
def add_host(up: Up, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    files = machine.Files(tmp_path / "root")
    files.write(files.etc / "control.toml", f'state = "{up.state}"\n')
    files.write(files.etc / "ca.pem", "certificate")
    tool = tmp_path / "bin/rabbitmqctl"
    files.write(tool, _RABBITMQCTL.format(folder=tmp_path), 0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    monkeypatch.setattr(machine, "must_be_root", lambda: None)
    monkeypatch.setattr(hosts, "Files", lambda _root: files)
    return lambda *words: CliRunner().invoke(main, ["cluster", "add-host", *words])


def logs_in(up: Up, ticket: Path) -> bool:
    told = tomllib.loads(ticket.read_text())
    user = ServiceUser(auth_url=told["auth_url"], username=told["username"], password=told["password"])
    try:
        with HttpImages(user, "RegionOne").open(up.image(b"\0" * 512)) as source:
            return source.read() == b"\0" * 512
    except Unavailable:
        return False


def test_again_it_gives_new_credentials_and_ends_what_the_old_ones_hold(
    up: Up, tmp_path: Path, add_host: Callable[..., Result]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for ticket in (first, second):
        done = add_host("node1", "--output", str(ticket))
        assert done.exit_code == 0, done.output
    assert (logs_in(up, first), logs_in(up, second)) == (False, True)
    imported, closed = (tmp_path / "told").read_text().splitlines()[-2:]
    assert "import_definitions" in imported
    assert "close_all_user_connections compute.node1" in closed


def test_credentials_that_cannot_be_written_leave_the_old_ones_good(
    up: Up, tmp_path: Path, add_host: Callable[..., Result]
) -> None:
    ticket = tmp_path / "ticket"
    assert add_host("node2", "--output", str(ticket)).exit_code == 0
    told = (tmp_path / "told").read_text()
    done = add_host("node2", "--output", str(tmp_path / "nowhere/ticket"))
    assert done.exit_code == 1
    assert "cannot write" in done.output
    assert (tmp_path / "told").read_text() == told
    assert logs_in(up, ticket)


def test_credentials_that_nobody_was_told_of_are_not_left(
    tmp_path: Path, add_host: Callable[..., Result]
) -> None:
    (tmp_path / "broken").touch()
    output = tmp_path / "out"
    output.mkdir()
    done = add_host("node3", "--output", str(output / "ticket"))
    assert done.exit_code == 1
    assert "rabbitmqctl failed" in done.output
    assert list(output.iterdir()) == []


def test_an_agent_that_was_admin_is_so_no_more(
    up: Up, tmp_path: Path, add_host: Callable[..., Result]
) -> None:
    assert add_host("node4", "--output", str(tmp_path / "ticket")).exit_code == 0

    def one(kind: str, name: str) -> str:
        return str(up.ask("GET", f"/identity/v3/{kind}?name={name}")[1][kind][0]["id"])

    held = f"/identity/v3/projects/{one('projects', 'service')}/users/{one('users', 'compute.node4')}/roles"
    assert up.ask("PUT", f"{held}/{one('roles', 'admin')}")[0] == 204
    assert add_host("node4", "--output", str(tmp_path / "ticket")).exit_code == 0
    assert [role["name"] for role in up.ask("GET", held)[1]["roles"]] == ["service"]
