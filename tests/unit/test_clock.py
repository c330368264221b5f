"""Times as the APIs write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilonova.domain.clock import iso8601, iso8601_micro, parse


@pytest.mark.parametrize(
    ("seconds", "second", "micro"),
    [
        (0.0, "1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000000"),
        (1767323045.5, "2026-01-02T03:04:05Z", "2026-01-02T03:04:05.500000"),
        (1767323045.999999, "2026-01-02T03:04:05Z", "2026-01-02T03:04:05.999999"),
    ],
)
def test_both_forms(seconds: float, second: str, micro: str) -> None:
    assert iso8601(seconds) == second
    assert iso8601_micro(seconds) == micro


def test_nothing_stays_nothing() -> None:
    assert iso8601(None) is None
    assert iso8601_micro(None) is None


@given(st.integers(0, 4_000_000_000_000_000))
def test_a_time_survives_being_written(micros: int) -> None:
    assert abs(parse(iso8601_micro(micros / 1e6) or "") - micros / 1e6) < 2e-6
