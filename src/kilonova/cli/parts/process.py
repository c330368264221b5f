"""A service as a process of its own: its configuration, its log, its signals, its end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import click

from kilonova import log
from kilonova.cli.memory import share_one_heap
from kilonova.config import Config, load
from kilonova.domain.errors import KilonovaError

INTERRUPTED = 130
"""Exit status of what Ctrl-C ended before its time, as shells have it."""

HOW_TO = "see docs/how-to/run-services-apart.md"

Start = Callable[[Config, ExitStack], str]
"""Start a service; what to tell about it. Whatever it starts, it registers to be stopped."""

Command = TypeVar("Command", bound=Callable[..., Any])


def options(command: Command) -> Command:
    """What every service's command line has."""
    level = click.Choice(["debug", "info", "warning", "error"])
    command = click.option("--log-level", type=level, default="info", show_default=True)(command)
    file = click.Path(exists=True, dir_okay=False, path_type=Path)
    return click.option(
        "--config", "config_file", type=file, required=True, help="TOML file with Nova's option names."
    )(command)


def run(name: str, config_file: Path, log_level: str, start: Start) -> None:
    """Start the service, say ``ready``, and stop it in reverse when a signal asks for it."""
    try:
        config = load(config_file)
    except KilonovaError as error:
        raise click.ClickException(error.message) from error
    if not config.bus.url:
        raise click.ClickException(
            f"{config_file}: [bus] url is not set: services that run apart need a message broker ({HOW_TO})"
        )
    log.setup(level=log_level)
    share_one_heap()
    signals = Signals()
    with ExitStack() as closing:
        try:
            told = start(config, closing)
            signals.started()
        except (KilonovaError, OSError) as error:
            raise click.ClickException(str(error)) from error
        except Stopped:
            raise SystemExit(INTERRUPTED) from None
        if not signals.asked.is_set():
            say(f"ready: {name} {told}")
        signals.asked.wait()
        say(f"stopping: {name}")


def database_url(config: Config) -> str:
    """ClickException if it is not configured: no default is the same for several processes."""
    if not config.database.connection:
        raise click.ClickException(f"[database] connection is not set ({HOW_TO})")
    return config.database.connection


def say(text: str) -> None:
    """To the user, at once, also through a pipe."""
    print(text, flush=True)


class Stopped(BaseException):
    """Asked to stop while starting."""


class Signals:
    """The first one asks to stop, a second one does not wait: then it is as after kill -9, and all that was
    under way is taken up at the next start."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._starting = True
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._hear)

    def started(self) -> None:
        """From now on a signal no more interrupts what the main thread does."""
        self._starting = False

    def _hear(self, _number: int, _frame: object) -> None:
        if self.asked.is_set():
            os._exit(INTERRUPTED)
        self.asked.set()
        if self._starting:
            raise Stopped
