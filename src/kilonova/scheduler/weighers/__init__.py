"""The built-in weighers, with Nova's default multipliers."""

from __future__ import annotations

from kilonova.scheduler.weighers.build_failure import BUILD_FAILURE
from kilonova.scheduler.weighers.cpu import CPU
from kilonova.scheduler.weighers.disk import DISK
from kilonova.scheduler.weighers.io_ops import IO_OPS
from kilonova.scheduler.weighers.ram import RAM

BUILT_IN = [RAM, CPU, DISK, IO_OPS, BUILD_FAILURE]
GROUP = "kilonova.scheduler.weighers"
