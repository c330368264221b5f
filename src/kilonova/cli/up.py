"""`kilonova up`: all services in one process, on one machine, state in one folder."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import click
from msgspec import structs

from kilonova import log
from kilonova.cli.machine import Machine
from kilonova.cli.memory import share_one_heap
from kilonova.cli.parts import agents, notify
from kilonova.cli.parts.process import say
from kilonova.cli.parts.stop import INTERRUPTED, Signals, Stopped
from kilonova.cli.state import StateFolder
from kilonova.config import load
from kilonova.domain.errors import KilonovaError


@click.command(short_help="Run everything in one process, on this machine.")
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    default=Path("state"),
    show_default=True,
    help="Folder that holds all state.",
)
@click.option("--address", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8774,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option("--driver", type=click.Choice(["libvirt", "fake"]), default="libvirt", show_default=True)
@click.option(
    "--hosts",
    type=click.IntRange(1, 10000),
    default=1,
    show_default=True,
    help="Compute hosts in this process (fake driver only).",
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML file with Nova's option names.",
)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
def up(
    state: Path, address: str, port: int, driver: str, hosts: int, config_file: Path | None, log_level: str
) -> None:
    """Run the API, conductor, scheduler and compute of this machine until Ctrl-C. Guests go on after it."""
    agents.check(driver, hosts)
    try:
        config = load(config_file)
    except KilonovaError as error:
        raise click.ClickException(error.message) from error
    share_one_heap()
    stop = Signals().asked
    folder = StateFolder(state)
    config = structs.replace(config, state=str(folder.path))
    with folder.log.open("a", buffering=1) as file:
        log.setup(file, log_level)
        machine = Machine(config, folder, driver, hosts, say, stop)
        _run(machine, folder, address, port, stop)


def _run(machine: Machine, folder: StateFolder, address: str, port: int, asked: threading.Event) -> None:
    try:
        url = machine.start(address, port)
    except (KilonovaError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except Stopped:
        sys.exit(INTERRUPTED)
    say(f"ready: {url} (credentials: {folder.path / 'clouds.yaml'}, log: {folder.log})")
    notify.ready(url)
    asked.wait()
    notify.stopping()
    say("stopping; guests go on")
    machine.close()
    folder.close()
