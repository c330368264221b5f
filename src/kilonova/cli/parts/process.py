"""A service as a process of its own: its configuration, its log, its signals, its end."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import click

from kilonova import log
from kilonova.cli.memory import share_one_heap
from kilonova.cli.parts import notify
from kilonova.cli.parts.stop import INTERRUPTED, Signals, Stopped
from kilonova.config import Config, load
from kilonova.domain.errors import KilonovaError

HOW_TO = "see docs/how-to/run-services-apart.md"

Start = Callable[[Config, threading.Event, ExitStack], str]
"""Start a service; what to tell about it. Stopped if the event is set meanwhile. Whatever it starts, it
registers to be stopped."""

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
    stop = Signals().asked
    with ExitStack() as closing:
        try:
            told = start(config, stop, closing)
        except (KilonovaError, OSError) as error:
            raise click.ClickException(str(error)) from error
        except Stopped:
            sys.exit(INTERRUPTED)
        say(f"ready: {name} {told}")
        notify.ready(told)
        stop.wait()
        notify.stopping()
        say(f"stopping: {name}")


def database_url(config: Config) -> str:
    """ClickException if it is not configured: no default is the same for several processes."""
    if not config.database.connection:
        raise click.ClickException(f"[database] connection is not set ({HOW_TO})")
    return config.database.connection


def say(text: str) -> None:
    """To the user, at once, also through a pipe."""
    print(text, flush=True)
