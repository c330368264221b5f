"""Which machine this is."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def this_machine() -> str:
    """The same for all processes under this kernel, in whatever namespace; another one elsewhere."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
