"""`kilonova db`: errors are said, not traced back."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from kilonova.cli import main
from kilonova.store.database import Database


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    """Of a PostgreSQL that is not there: the port is ours, and nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"postgresql+psycopg://u:theirs@127.0.0.1:{taken.getsockname()[1]}/k"
        path = tmp_path / "kilonova.toml"
        path.write_text(f'[database]\nconnection = "{url}"\nreconnect_timeout = 0.2\n')
        yield path


@pytest.mark.parametrize("words", [["current"], ["upgrade"], ["purge", "--older-than", "0"]])
def test_a_database_that_is_away_is_said_to_be(words: list[str], config: Path) -> None:
    done = CliRunner().invoke(main, ["db", *words, "--config", str(config)])
    assert (done.exit_code, type(done.exception)) == (1, SystemExit)
    assert "The database does not answer" in done.output
    assert "refused" in done.output, "why"
    assert "theirs" not in done.output


def test_it_is_brought_up_to_date(tmp_path: Path) -> None:
    Database(f"sqlite:///{tmp_path}/kilonova.db").close()
    (tmp_path / "kilonova.db").touch()
    said = [
        CliRunner().invoke(main, ["db", word, "--state", str(tmp_path)]).output
        for word in ("current", "upgrade", "current")
    ]
    assert said[0].startswith("empty")
    assert said[1].removeprefix("at ").strip() == said[2].split()[0]
