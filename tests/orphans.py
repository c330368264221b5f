"""What `kilonova doctor --orphans` says of a `kilonova up`."""

from __future__ import annotations

from click.testing import CliRunner
from tests.running import Up

from kilonova.cli.doctor import doctor


def orphans(up: Up) -> str:
    """All that it prints; ``0 found`` and a newline if nothing is without an owner."""
    asked = ["--orphans", "--state", str(up.state), "--config", str(up.state / "test.toml")]
    return CliRunner().invoke(doctor, asked).output
