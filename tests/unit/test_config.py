"""Options that only make sense together."""

from __future__ import annotations

from pathlib import Path

import pytest

from kilonova.config import Api, Compute, load
from kilonova.domain.errors import BadRequest


def test_a_host_must_report_more_often_than_it_is_taken_for_dead(tmp_path: Path) -> None:
    file = tmp_path / "kilonova.toml"
    file.write_text("[compute]\nservice_down_time = 5.0\n")
    with pytest.raises(BadRequest, match="service_down_time must be longer than report_interval"):
        load(file)
    file.write_text("[compute]\nservice_down_time = 5.0\nreport_interval = 1.0\n")
    assert load(file).compute == Compute(service_down_time=5.0, report_interval=1.0)


@pytest.mark.parametrize(
    "endpoint",
    ["https://cloud.example.org", "http://192.0.2.1:8774/", "https://[2001:db8::1]:443/open/stack"],
)
def test_a_public_endpoint(tmp_path: Path, endpoint: str) -> None:
    file = tmp_path / "kilonova.toml"
    file.write_text(f"[api]\npublic_endpoint = '{endpoint}'\n")
    assert load(file).api == Api(public_endpoint=endpoint)


@pytest.mark.parametrize(
    "endpoint",
    [
        "cloud.example.org",
        "ftp://cloud.example.org",
        "https://",
        "https:///path",
        "https://cloud.example.org?x=1",
        "https://cloud.example.org/#x",
        "https://me@cloud.example.org",
        "https://cloud.example.org:port",
        "https://cloud.example.org:70000",
        "https://cloud.example.org/a b",
        "https://clöud.example.org",
        "https://cloud.example.org/\\r\\nSet-Cookie: x",
    ],
)
def test_what_is_no_public_endpoint(tmp_path: Path, endpoint: str) -> None:
    file = tmp_path / "kilonova.toml"
    file.write_text(f'[api]\npublic_endpoint = "{endpoint}"\n')
    with pytest.raises(BadRequest, match="public_endpoint"):
        load(file)


@pytest.mark.parametrize("line", ["region = ''", "[volume]\ndefault_volume_type = ''"])
def test_a_name_that_is_empty(tmp_path: Path, line: str) -> None:
    file = tmp_path / "kilonova.toml"
    file.write_text(f"{line}\n")
    with pytest.raises(BadRequest, match="length >= 1"):
        load(file)
