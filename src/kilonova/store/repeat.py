"""Do again what the database rolled back because something else was in its way."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from kilonova import log
from kilonova.domain.errors import RolledBack

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

TIMES = 5

_log = log.get("database")


def repeated(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """For functions that have no effect before their (first) write has committed.

    The one that was in the way has committed by the time a transaction is rolled back for it: no waiting.
    """

    @wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        for time in range(1, TIMES):
            try:
                return function(*args, **kwargs)
            except RolledBack:
                _log.info("done_again", what=function.__qualname__, time=time)
        return function(*args, **kwargs)

    return run
