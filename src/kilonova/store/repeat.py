"""Do again what the database rolled back because something else was in its way.

It is for functions that have no effect before their first write has committed. The one that was in the way
has committed by the time a transaction is rolled back for it: there is nothing to wait for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from kilonova import log, metrics
from kilonova.domain.errors import RolledBack

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

TIMES = 5

_log = log.get("database")
_done_again = metrics.Counter("database_done_again", "Done again, as another transaction was in the way.")


def repeat(
    function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """Call it until it was not rolled back, at most TIMES times."""
    for _ in range(TIMES - 1):
        try:
            return function(*args, **kwargs)
        except RolledBack:
            _log.info("done_again", what=function.__qualname__)
            _done_again.add()
    return function(*args, **kwargs)


def repeated(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A decorator: each call is a repeat()."""

    @wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        return repeat(function, *args, **kwargs)

    return run
