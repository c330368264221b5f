"""A service as a process of its own: its configuration, its log, its signals, its end."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click
from msgspec import structs

from kilonova import log
from kilonova.cli.memory import share_one_heap
from kilonova.cli.parts import notify
from kilonova.cli.parts.crash import tell_of_crashes
from kilonova.cli.parts.stop import INTERRUPTED, Signals, Stopped
from kilonova.config import Config, load
from kilonova.domain.errors import KilonovaError
from kilonova.monitoring.health import State
from kilonova.monitoring.watch import Watch

HOW_TO = "see docs/how-to/run-services-apart.md"

Start = Callable[[Config, threading.Event, Watch, ExitStack], str]
"""Start a service; what to tell about it. Stopped if the event is set meanwhile. Whatever it starts, it
registers to be stopped, and what it needs, to be watched."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every service's command line has."""

    log_level: str
    log_format: str
    monitoring: str | None


def options(command: Callable[..., None]) -> Callable[..., None]:
    """The command gets them as its first argument, ``options``."""

    @wraps(command)
    def run_with(log_level: str, log_format: str, monitoring: str | None, **more: Any) -> None:
        command(Options(log_level=log_level, log_format=log_format, monitoring=monitoring), **more)

    level = click.Choice(["debug", "info", "warning", "error"])
    add = [
        click.option(
            "--monitoring",
            metavar="ADDRESS:PORT",
            help="Where /healthz, /readyz and /metrics are; over [monitoring] listen.",
        ),
        click.option(
            "--log-level",
            type=level,
            default="info",
            show_default=True,
            help="The least serious lines that the log gets.",
        ),
        click.option(
            "--log-format",
            type=click.Choice(["text", "json"]),
            default="text",
            show_default=True,
            help="Lines for people, or one JSON object a line.",
        ),
    ]
    whole: Callable[..., None] = run_with
    for option in reversed(add):
        whole = option(whole)
    return whole


def config_option(required: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    file = click.Path(exists=True, dir_okay=False, path_type=Path)
    return click.option(
        "--config", "config_file", type=file, required=required, help="TOML file with Nova's option names."
    )


def loaded(config_file: Path | None, options: Options) -> Config:
    """The configuration, with what the command line says instead. ClickException: it is wrong."""
    try:
        config = load(config_file)
    except KilonovaError as error:
        raise click.ClickException(error.message) from error
    if options.monitoring is None:
        return config
    try:
        monitoring = structs.replace(config.monitoring, listen=options.monitoring)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--monitoring") from error
    return structs.replace(config, monitoring=monitoring)


def run(name: str, config_file: Path, options: Options, needs: Sequence[str], start: Start) -> None:
    """Start the service, say ``ready``, and stop it in reverse when a signal asks for it."""
    config = loaded(config_file, options)
    if not config.bus.url:
        raise click.ClickException(
            f"{config_file}: [bus] url is not set: services that run apart need a message broker ({HOW_TO})"
        )
    log.setup(level=options.log_level, as_json=options.log_format == "json")
    share_one_heap()
    tell_of_crashes()
    stop = Signals().asked
    with ExitStack() as closing:
        try:
            watch = watched(name, needs, config, closing)
            told = start(config, stop, watch, closing)
        except (KilonovaError, OSError) as error:
            raise click.ClickException(str(error)) from error
        except Stopped:
            sys.exit(INTERRUPTED)
        watch.health.state = State.READY
        say(f"ready: {name} {told}")
        notify.ready(told)
        stop.wait()
        watch.health.state = State.STOPPING
        notify.stopping()
        say(f"stopping: {name}")


def watched(service: str, needs: Sequence[str], config: Config, closing: ExitStack) -> Watch:
    """What the process shows of itself, from now on. BadRequest: not there."""
    watch = Watch(service, needs, config.monitoring)
    url = watch.listen(closing)
    if url is not None:
        say(f"monitoring: {url}")
    return watch


def database_url(config: Config) -> str:
    """ClickException if it is not configured: no default is the same for several processes."""
    if not config.database.connection:
        raise click.ClickException(f"[database] connection is not set ({HOW_TO})")
    return config.database.connection


def say(text: str) -> None:
    """To the user, at once, also through a pipe."""
    print(text, flush=True)
