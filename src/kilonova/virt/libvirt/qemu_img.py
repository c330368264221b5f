"""The one module that runs qemu-img.

An image is a stranger's file: qemu-img always gets the format (it never guesses), runs under limits of
memory and CPU time, and never through a shell. What it would have to open beside the file itself (a backing
or data file named inside it) was refused before by the format inspector.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from kilonova.domain.errors import BuildFailed

_ADDRESS_SPACE = 1 << 30  # bytes; as Nova's limit for qemu-img
_CPU_SECONDS = 30
_TIMEOUT = 60.0


def create_overlay(path: Path, *, base: Path, base_format: str, size: int) -> None:
    """A qcow2 of ``size`` bytes at ``path`` whose unwritten parts are read from ``base``."""
    _run("create", "-q", "-f", "qcow2", "-F", base_format, "-b", str(base), "--", str(path), str(size))


def create_empty(path: Path, *, size: int) -> None:
    """An empty qcow2 of ``size`` bytes."""
    _run("create", "-q", "-f", "qcow2", "--", str(path), str(size))


def _run(*arguments: str) -> None:
    limits = ("prlimit", f"--as={_ADDRESS_SPACE}", f"--cpu={_CPU_SECONDS}", "--")
    try:
        done = subprocess.run(
            [*limits, "qemu-img", *arguments],
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except FileNotFoundError as error:
        raise BuildFailed(f"{error.filename} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise BuildFailed(f"qemu-img {arguments[0]} took more than {_TIMEOUT:.0f} s") from error
    if done.returncode != 0:
        raise BuildFailed(f"qemu-img {arguments[0]}: {done.stderr.strip() or f'exit {done.returncode}'}")
