"""Ask a conductor until it answers: the broker or all conductors may be away for a while.

It is safe to ask again what was perhaps done: a conductor takes every message twice without harm.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import TypeVar

from kilonova import log
from kilonova.domain.clock import now
from kilonova.domain.errors import StaleEpoch, Unavailable

Answer = TypeVar("Answer")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_log = log.get("compute")


class ConductorAway(Exception):
    """No conductor answered before the deadline. What was asked may have been done or not: all is left as it
    is, for the operation's next owner or the next comparison with the records to find."""


def insist(
    ask: Callable[[], Answer], deadline: float, cancel: threading.Event, missing: str = "conductor_away"
) -> Answer:
    """The answer. ConductorAway after ``deadline`` (epoch seconds); StaleEpoch if ``cancel`` is set while
    there is none. ``missing`` is the log's word for that."""
    pause = _FIRST_PAUSE
    while True:
        try:
            return ask()
        except Unavailable as error:
            _log.warning(missing, error=error.message)
            if now() + pause > deadline:
                raise ConductorAway(error.message) from error
        if cancel.wait(pause * random.uniform(0.5, 1.0)):  # noqa: S311 - not all hosts at once
            raise StaleEpoch("the work was cut off while no conductor answered")
        pause = min(pause * 2, _LONGEST_PAUSE)
