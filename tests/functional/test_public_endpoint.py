"""Behind a proxy every address that the API tells is the one that clients know."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.running import Up

PUBLIC = "https://cloud.example.org/openstack"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    made = Up(tmp_path_factory.mktemp("proxy") / "state").start(f'[api]\npublic_endpoint = "{PUBLIC}/"\n')
    yield made
    made.stop()


def addresses(answer: Any) -> list[str]:
    """Every http address anywhere in it, but those of documentation."""
    if isinstance(answer, dict):
        answer = list(answer.values())
    if isinstance(answer, list):
        return [address for one in answer for address in addresses(one)]
    found = isinstance(answer, str) and answer.startswith("http") and "docs.openstack" not in answer
    return [answer] if found else []


@pytest.mark.parametrize(
    ("path", "first"),
    [
        ("/identity", "/identity/v3/"),
        ("/identity/v3", "/identity/v3/"),
        ("/compute", "/compute/v2.1/"),
        ("/compute/v2.1", "/compute/v2.1/"),
        ("/image", "/image/v2/"),
        ("/networking", "/networking/v2.0/"),
        ("/compute/v2.1/flavors?limit=1", "/compute/v2.1/flavors/"),
        ("/identity/v3/users", "/identity/v3/users/"),
        ("/identity/v3/auth/catalog", ""),
        ("/identity/v3/endpoints", ""),
    ],
)
def test_every_link_leads_to_it(up: Up, path: str, first: str) -> None:
    forged = {"Host": "evil.example.org", "X-Forwarded-Host": "evil.example.org"}
    status, answer = up.ask("GET", path, headers=forged)
    assert status in (200, 300), answer
    found = addresses(answer)
    assert any(address.startswith(PUBLIC + first) for address in found), found
    assert [address for address in found if not address.startswith(f"{PUBLIC}/")] == []


def test_where_to_log_in(up: Up) -> None:
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(f"{up.url}/compute/v2.1/servers", timeout=30)
    assert raised.value.headers["WWW-Authenticate"] == f'Keystone uri="{PUBLIC}/identity"'
    assert "itemNotFound" not in json.loads(raised.value.read())


def test_an_option_that_is_no_address_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="public_endpoint"):
        Up(tmp_path / "state").start('[api]\npublic_endpoint = "cloud.example.org"\n')
