"""The one module that runs qemu-img.

An image is a stranger's file: qemu-img always gets the format (it never guesses), runs under limits of
memory and CPU time, and never through a shell. What it would have to open beside the file itself (a backing
or data file named inside it) was refused before by the format inspector.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path

from kilonova.cancel import Cancel
from kilonova.domain.errors import BuildFailed, StaleEpoch

_ADDRESS_SPACE = 1 << 30  # bytes; as Nova's limit for qemu-img
_ADDRESS_SPACE_IN_CEPH = 4 << 30  # whose client has dozens of threads, each with a stack and an arena
_CEPH = "rbd:"
_CPU_SECONDS = 30
_TIMEOUT = 60.0
_CONVERT_CPU_SECONDS = 1800
_CONVERT_TIMEOUT = 3600.0


def create_overlay(path: Path, *, base: Path, base_format: str, size: int) -> None:
    """A qcow2 of ``size`` bytes at ``path`` whose unwritten parts are read from ``base``."""
    _run("create", "-q", "-f", "qcow2", "-F", base_format, "-b", str(base), "--", str(path), str(size))


def create_empty(path: Path, *, size: int) -> None:
    """An empty qcow2 of ``size`` bytes."""
    _run("create", "-q", "-f", "qcow2", "--", str(path), str(size))


def backing_file(path: Path) -> str | None:
    """What a qcow2 of ours has as its base, as it is written in it; also while a guest has it open."""
    found = json.loads(_run("info", "-f", "qcow2", "-U", "--output=json", "--", str(path)))
    name = found.get("full-backing-filename") or found.get("backing-filename")
    return None if name is None else str(name)


def data_bytes(path: Path, disk_format: str, cancel: Cancel) -> int:
    """What a guest would read in it takes at most when it is copied; holes take nothing. What is there once
    and is read many times counts as many. Also while a guest has it open."""
    # Of raw targets it says nothing but how large they are.
    how = ("measure", "-U", "--output=json", "-f", disk_format, "-O", "qcow2")
    return int(json.loads(_run(*how, "--", str(path), cancel=cancel))["required"])


def convert(
    source: Path | str, source_format: str, target: str, *, cancel: Cancel | None = None, fresh: bool = True
) -> None:
    """Write the disk in ``source`` raw to ``target``, which is there and large enough. Each is a path or
    ``rbd:pool/image:…``. ``fresh``: it reads as zeros, so that zeros need not be written.

    StaleEpoch as soon as ``cancel`` is set.
    """
    options = ["--target-is-zero"] if fresh else []
    arguments = ("convert", "-n", *options, "-f", source_format, "-O", "raw", "--", str(source), target)
    _run(*arguments, cpu=_CONVERT_CPU_SECONDS, timeout=_CONVERT_TIMEOUT, cancel=cancel)


def flatten(source: Path | str, source_format: str, target: Path, cancel: Cancel) -> None:
    """All that a guest would read of ``source``, which no guest has, as a qcow2 that needs no other file."""
    arguments = ("convert", "-f", source_format, "-O", "qcow2", "--", str(source), str(target))
    _run(*arguments, cpu=_CONVERT_CPU_SECONDS, timeout=_CONVERT_TIMEOUT, cancel=cancel)


def has_driver(name: str) -> bool:
    """Whether QEMU here knows the protocol (``rbd``, ``iscsi``). BuildFailed: there is no qemu-img."""
    try:
        _run("info", "--image-opts", f"driver={name}")
    except BuildFailed as error:  # it has been told of no image
        if "is not installed" in error.message:
            raise
        return "Unknown driver" not in error.message
    return True


def _run(
    *arguments: str, cpu: int = _CPU_SECONDS, timeout: float = _TIMEOUT, cancel: Cancel | None = None
) -> str:
    in_ceph = any(argument.startswith(_CEPH) for argument in arguments)
    space = _ADDRESS_SPACE_IN_CEPH if in_ceph else _ADDRESS_SPACE
    limits = ("prlimit", f"--as={space}", f"--cpu={cpu}", "--")
    dies_with_us = ("setpriv", "--pdeathsig=KILL", "--")
    try:
        process = subprocess.Popen(
            [*dies_with_us, *limits, "qemu-img", *arguments],
            # Its threads share what they allocate from: an arena of each would be most of its address space.
            env={**os.environ, "LC_ALL": "C", "MALLOC_ARENA_MAX": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except FileNotFoundError as error:
        raise BuildFailed(f"{error.filename} is not installed") from error
    with process:
        try:
            said, complaint = _ended(process, timeout, cancel)
        except subprocess.TimeoutExpired as error:
            raise BuildFailed(f"qemu-img {arguments[0]} took more than {timeout:.0f} s") from error
        finally:
            process.kill()
    if process.returncode != 0:
        reason = complaint.strip() or f"exit {process.returncode}"
        raise BuildFailed(f"qemu-img {arguments[0]}: {reason}")
    return said


def _ended(process: subprocess.Popen[str], timeout: float, cancel: Cancel | None) -> tuple[str, str]:
    """All that it said. A cancel kills it."""
    if cancel is None:
        return process.communicate(timeout=timeout)
    asked, over = threading.Event(), threading.Event()

    def kill_if_asked() -> None:
        asked.wait()
        if not over.is_set():
            process.kill()

    killer = threading.Thread(target=kill_if_asked, name="qemu-img-killer", daemon=True)
    with cancel.sets(asked):
        killer.start()
        try:
            told = process.communicate(timeout=timeout)
        finally:
            over.set()
            asked.set()
            killer.join()
    if cancel.is_set():
        raise StaleEpoch("the work moved on while a disk was converted")
    return told
