"""Name filters: a pattern that is a plain prefix or name is compared, not run."""

from __future__ import annotations

import pytest

from kilonova.store.schema.servers import servers
from kilonova.store.server_lists import _compared


@pytest.mark.parametrize(
    ("pattern", "operator"),
    [
        ("^web", "substr"),
        ("^web1$", "= "),
        ("^", "substr"),
    ],
)
def test_plain_ones(pattern: str, operator: str) -> None:
    assert operator in str(_compared(servers.c.name, pattern))


@pytest.mark.parametrize("pattern", ["^we.b", "web", "web$", "^a|b", "^we\\-b"])
def test_those_that_must_be_run(pattern: str) -> None:
    assert _compared(servers.c.name, pattern) is None
