"""The one module that runs qemu-img.

An image is a stranger's file: qemu-img always gets the format (it never guesses), runs under limits of
memory and CPU time, and never through a shell. What it would have to open beside the file itself (a backing
or data file named inside it) was refused before by the format inspector.
"""

from __future__ import annotations

import os
import subprocess
import threading
from contextlib import nullcontext
from pathlib import Path

from kilonova.cancel import Cancel
from kilonova.domain.errors import BuildFailed, StaleEpoch

_ADDRESS_SPACE = 1 << 30  # bytes; as Nova's limit for qemu-img
_CPU_SECONDS = 30
_TIMEOUT = 60.0
_CONVERT_CPU_SECONDS = 3600
_CONVERT_TIMEOUT = 4 * 3600.0


def create_overlay(path: Path, *, base: Path, base_format: str, size: int) -> None:
    """A qcow2 of ``size`` bytes at ``path`` whose unwritten parts are read from ``base``."""
    _run("create", "-q", "-f", "qcow2", "-F", base_format, "-b", str(base), "--", str(path), str(size))


def create_empty(path: Path, *, size: int) -> None:
    """An empty qcow2 of ``size`` bytes."""
    _run("create", "-q", "-f", "qcow2", "--", str(path), str(size))


def convert(source: Path, source_format: str, target: Path, target_format: str, cancel: Cancel) -> None:
    """All that a guest would read of ``source`` at ``target``, which needs no other file.

    StaleEpoch as soon as ``cancel`` is set."""
    files = ("-f", source_format, "-O", target_format, "--", str(source), str(target))
    _run("convert", "-q", *files, cpu=_CONVERT_CPU_SECONDS, timeout=_CONVERT_TIMEOUT, cancel=cancel)


class _Kill(threading.Event):
    """Set, it ends the process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        super().__init__()
        self._process = process

    def set(self) -> None:
        super().set()
        self._process.kill()


def _run(
    *arguments: str, cpu: int = _CPU_SECONDS, timeout: float = _TIMEOUT, cancel: Cancel | None = None
) -> None:
    limits = ("prlimit", f"--as={_ADDRESS_SPACE}", f"--cpu={cpu}", "--")
    try:
        process = subprocess.Popen(
            [*limits, "qemu-img", *arguments],
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except FileNotFoundError as error:
        raise BuildFailed(f"{error.filename} is not installed") from error
    with process, cancel.sets(_Kill(process)) if cancel is not None else nullcontext():
        try:
            _, said = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise BuildFailed(f"qemu-img {arguments[0]} took more than {timeout:.0f} s") from error
    if cancel is not None and cancel.is_set():
        raise StaleEpoch(f"the operation moved on during qemu-img {arguments[0]}")
    if process.returncode != 0:
        raise BuildFailed(f"qemu-img {arguments[0]}: {said.strip() or f'exit {process.returncode}'}")
