"""Running other programs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


class CommandFailed(SystemExit):
    """Ends mkguest, saying what failed and what it said."""


def run(*command: str | Path, timeout: float = 300, path: list[Path] | None = None) -> bytes:
    """The command's output; ``path`` is searched before PATH. Times in files are fixed (reproducible)."""
    searched = os.pathsep.join([*map(str, path or []), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    environment = os.environ | {
        "PATH": searched,
        "LC_ALL": "C",
        "TZ": "UTC",
        "SOURCE_DATE_EPOCH": str(EPOCH),
        "E2FSPROGS_FAKE_TIME": str(EPOCH),
        "MTOOLS_SKIP_CHECK": "1",
    }
    words = [str(word) for word in command]
    try:
        return subprocess.run(
            words, env=environment, timeout=timeout, check=True, capture_output=True, stdin=subprocess.DEVNULL
        ).stdout
    except FileNotFoundError:
        raise CommandFailed(f"mkguest: {words[0]} is missing; tools/install-packages gets it") from None
    except subprocess.TimeoutExpired:
        raise CommandFailed(f"mkguest: {' '.join(words)}: no end after {timeout:.0f} s") from None
    except subprocess.CalledProcessError as error:
        sys.stderr.buffer.write(error.stdout + error.stderr)
        raise CommandFailed(f"mkguest: {' '.join(words)}: exit status {error.returncode}") from None


EPOCH = 1_000_000_000
"""The date of everything in the guest: the same inputs give the same image, but for inodes' change times."""
