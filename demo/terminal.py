"""What the demo says, and how it runs commands: each is shown as one would type it, with its time."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


class DemoFailed(Exception):
    """The demo cannot go on; the message is for the user."""


def say(text: str = "") -> None:
    print(text, flush=True)


@contextmanager
def step(title: str) -> Iterator[None]:
    """A part of the story, timed."""
    say(f"\n{_bold(title)}")
    started = time.monotonic()
    yield
    say(f"  {_dim(f'{time.monotonic() - started:.1f} s')}")


def run(
    *command: str | Path,
    environment: Mapping[str, str],
    timeout: float,
    shown: str | None = None,
    quiet: bool = False,
) -> str:
    """The command's output. DemoFailed says what it said, if it fails or does not end.

    ``quiet``: it is not shown, being one of many looks.
    """
    words = [str(word) for word in command]
    line = shown or shlex.join(words)
    started = time.monotonic()
    try:
        done = subprocess.run(
            words,
            env=dict(environment),
            timeout=timeout,
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise DemoFailed(f"{words[0]} is missing: run make install") from None
    except subprocess.TimeoutExpired:
        raise DemoFailed(f"$ {line}\nhas not ended after {timeout:.0f} s") from None
    if done.returncode != 0:
        raise DemoFailed(
            f"$ {line}\nended with status {done.returncode}:\n{done.stdout}{done.stderr}".rstrip()
        )
    if not quiet:
        say(f"  $ {line}  {_dim(f'({time.monotonic() - started:.1f} s)')}")
    return done.stdout


def quote(text: str) -> None:
    """Something that was read: indented, without what a terminal would act on."""
    for line in text.splitlines():
        say("  | " + "".join(char for char in line if char.isprintable() or char == "\t").rstrip())


def _bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() else text


def _dim(text: str) -> str:
    return f"\033[2m{text}\033[0m" if sys.stdout.isatty() else text
