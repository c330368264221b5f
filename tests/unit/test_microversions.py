"""Microversion headers: which are read, and what is answered."""

from __future__ import annotations

import falcon
import falcon.testing
import pytest

from kilonova.api.compute import microversions
from kilonova.api.http import Request
from kilonova.domain.errors import BadRequest, NotAcceptable

NEW, OLD = "OpenStack-API-Version", "X-OpenStack-Nova-API-Version"


@pytest.mark.parametrize(
    ("headers", "version"),
    [
        ({}, (2, 1)),
        ({NEW: "compute 2.53"}, (2, 53)),
        ({NEW: "Compute 2.104"}, (2, 104)),
        ({NEW: "compute latest"}, (2, 104)),
        ({NEW: "volume 3.50, compute 2.9"}, (2, 9)),
        ({NEW: "volume 3.50"}, (2, 1)),
        ({OLD: "2.10"}, (2, 10)),
        ({OLD: "latest"}, (2, 104)),
        ({OLD: "2.5,2.6"}, (2, 6)),
        ({NEW: "compute 2.9", OLD: "2.10"}, (2, 9)),
        ({NEW: "volume 3.50", OLD: "2.10"}, (2, 10)),
    ],
)
def test_negotiates(headers: dict[str, str], version: tuple[int, int]) -> None:
    assert microversions.negotiate(falcon.testing.create_req(headers=headers)) == version


@pytest.mark.parametrize(
    "text", ["2", "2.", "2.1.1", "02.1", "2.01", "two", "-2.1", "2.1e3", "2.٣", "2.1 2.2"]
)
def test_refuses_what_is_no_version(text: str) -> None:
    with pytest.raises(BadRequest, match="is of invalid format"):
        microversions.negotiate(falcon.testing.create_req(headers={NEW: f"compute {text}"}))


@pytest.mark.parametrize("text", ["2.0", "2.105", "1.1", "3.0", "999999999.1"])
def test_refuses_what_is_not_served(text: str) -> None:
    expected = f"Version {text} is not supported by the API. Minimum is 2.1 and maximum is 2.104."
    with pytest.raises(NotAcceptable, match=expected.replace(".", r"\.")):
        microversions.negotiate(falcon.testing.create_req(headers={OLD: text}))


def test_picks_the_highest_rung_that_is_reached() -> None:
    ladder = {(2, 1): "old", (2, 55): "newer", (2, 102): "newest"}
    for version, rung in {(2, 1): "old", (2, 54): "old", (2, 55): "newer", (2, 104): "newest"}.items():
        request = Request(raw=falcon.testing.create_req(), request_id="", version=version)
        assert microversions.pick(request, ladder) == rung
