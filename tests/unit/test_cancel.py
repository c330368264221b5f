"""The word that work has moved on."""

from __future__ import annotations

import threading

from kilonova.cancel import Cancel


def test_it_sets_those_that_ask_while_they_ask() -> None:
    cancel, asks, asked = Cancel(), threading.Event(), threading.Event()
    with cancel.sets(asked):
        pass
    with cancel.sets(asks):
        assert not asks.is_set()
        cancel.set()
        assert asks.is_set()
    assert not asked.is_set()


def test_who_asks_too_late_is_told_at_once() -> None:
    cancel, late = Cancel(), threading.Event()
    cancel.set()
    with cancel.sets(late):
        assert late.is_set()
