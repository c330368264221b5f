"""A process that dies in a library of C tells what its threads were doing: else nothing would be known."""

from __future__ import annotations

import faulthandler
import sys


def tell_of_crashes() -> None:
    """On stderr, and the process ends by the same signal."""
    if sys.__stderr__ is not None:
        faulthandler.enable(sys.__stderr__)
