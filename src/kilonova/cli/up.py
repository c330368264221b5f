"""`kilonova up`: all services in one process, on one machine, state in one folder."""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import click
from msgspec import structs

from kilonova import log
from kilonova.cli.machine import Machine
from kilonova.cli.memory import share_one_heap
from kilonova.cli.parts import agents, notify, process, progress
from kilonova.cli.parts.crash import tell_of_crashes
from kilonova.cli.parts.process import say
from kilonova.cli.parts.stop import INTERRUPTED, Signals, Stopped
from kilonova.cli.state import StateFolder
from kilonova.domain.errors import KilonovaError
from kilonova.monitoring.health import State
from kilonova.monitoring.watch import Watch


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
@agents.options
@process.config_option(required=False)
@process.options
def up(
    options: process.Options,
    state: Path,
    address: str,
    port: int,
    driver: str,
    hosts: int,
    config_file: Path | None,
) -> None:
    """Run the API, conductor, scheduler and compute of this machine until Ctrl-C. Guests go on after it."""
    agents.check(driver, hosts)
    config = process.loaded(config_file, options)
    share_one_heap()
    tell_of_crashes()
    stop = Signals().asked
    folder = StateFolder(state)
    config = structs.replace(config, state=str(folder.path))
    with folder.log.open("a", buffering=1) as file:
        log.setup(file, options.log_level, as_json=options.log_format == "json")
        with ExitStack() as closing:
            try:
                watch = process.watched("up", ("database", "bus", "hypervisor"), config, closing)
            except KilonovaError as error:
                raise click.ClickException(error.message) from error
            machine = Machine(config, folder, driver, hosts, watch, say, stop)
            _run(machine, folder, watch, address, port, stop)


def _run(
    machine: Machine, folder: StateFolder, watch: Watch, address: str, port: int, asked: threading.Event
) -> None:
    try:
        url = machine.start(address, port)
    except (KilonovaError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except Stopped:
        sys.exit(INTERRUPTED)
    watch.health.state = State.READY
    credentials = f"credentials: {folder.clouds}, " if folder.clouds.exists() else ""
    say(f"ready: {url} ({credentials}log: {folder.log})")
    notify.ready(url)
    with progress.shown(machine.database):
        asked.wait()
    watch.health.state = State.STOPPING
    notify.stopping()
    say("stopping; guests go on")
    machine.close()
    folder.close()
