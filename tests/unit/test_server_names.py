"""Host names made of server names, and hosts' names hidden from users."""

from __future__ import annotations

import re
import string

from hypothesis import example, given
from hypothesis import strategies as st

from kilonova.api.compute.create import host_name, random_word
from kilonova.api.compute.server_view import host_id

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


@given(st.text(max_size=300), st.sampled_from(["", "-1", "-1000"]))
@example("a" * 62 + "-b", "-1")
@example("İ", "")
def test_a_host_name_is_one_label_or_nothing(name: str, suffix: str) -> None:
    made = host_name(name, suffix)
    assert len(made) <= 63
    assert made == "" or LABEL.fullmatch(made)
    assert made == "" or made.endswith(suffix)


def test_random_text() -> None:
    made = {random_word(12) for _ in range(1000)}
    assert len(made) == 1000
    assert set("".join(made)) == set(string.ascii_letters + string.digits)


def test_host_ids_of_projects_differ() -> None:
    assert host_id("p1", "node") == host_id("p1", "node") != host_id("p2", "node")
    assert len(host_id("p1", "node")) == 56
