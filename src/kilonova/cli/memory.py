"""One heap for all threads. glibc gives each thread a heap of its own, which never shrinks to what is used:
with fifty threads that mostly wait, a third of the process's memory. The GIL makes them take turns anyway."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1  # malloc.h
_M_ARENA_MAX = -8


def share_one_heap() -> None:
    """To be called before the first thread begins; without effect where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_TRIM_THRESHOLD, 128 * 1024)
