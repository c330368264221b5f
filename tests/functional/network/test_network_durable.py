"""What a request has changed is on the disk when it is answered."""

from __future__ import annotations

from typing import Any

import pytest
from falcon.testing import TestClient

from kilonova.api import network as api
from kilonova.api.http import application
from kilonova.network.builtin.service import BuiltinNetwork

from .conftest import Caller, authenticate


def test_the_write_of_every_request_that_changes_something_is_durable(
    network: BuiltinNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    kind: Any = network.db._kind
    writing = kind.writing

    def watched(durable: bool) -> Any:
        seen.append(durable)
        return writing(durable)

    monkeypatch.setattr(kind, "writing", watched)
    app = application([api.service(network)], authenticate, durably=network.db.durably)
    alice = Caller(TestClient(app), "alice")
    made = alice.create("network", name="a")
    assert seen == [True]
    alice.get("/networks")
    alice.update("network", made["id"], name="b")
    alice.delete("network", made["id"])
    assert seen == [True] * 3
