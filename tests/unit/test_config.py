"""Options that only make sense together."""

from __future__ import annotations

from pathlib import Path

import pytest

from kilonova.config import Compute, load
from kilonova.domain.errors import BadRequest


def test_a_host_must_report_more_often_than_it_is_taken_for_dead(tmp_path: Path) -> None:
    file = tmp_path / "kilonova.toml"
    file.write_text("[compute]\nservice_down_time = 5.0\n")
    with pytest.raises(BadRequest, match="service_down_time must be longer than report_interval"):
        load(file)
    file.write_text("[compute]\nservice_down_time = 5.0\nreport_interval = 1.0\n")
    assert load(file).compute == Compute(service_down_time=5.0, report_interval=1.0)
