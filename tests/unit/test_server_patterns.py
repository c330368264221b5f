"""Name filters: a pattern that is a plain prefix or name is compared, not run."""

from __future__ import annotations

import pytest

from kilonova.store.schema.servers import servers
from kilonova.store.server_lists import _matching


@pytest.mark.parametrize(
    ("pattern", "operator"),
    [
        ("^web", "substr"),
        ("^web1$", "= "),
        ("^", "substr"),
        ("^we.b", "REGEXP"),
        ("web", "REGEXP"),
        ("web$", "REGEXP"),
        ("^a|b", "REGEXP"),
        ("^we\\-b", "REGEXP"),
    ],
)
def test_how_a_pattern_is_searched(pattern: str, operator: str) -> None:
    from sqlalchemy.dialects import sqlite

    assert operator in str(_matching(servers.c.name, pattern).compile(dialect=sqlite.dialect()))
