"""`kilonova compute`: the agent of this host. It holds no database: conductors are its way to it."""

from __future__ import annotations

import fcntl
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click

from kilonova.cli.parts import agents, process
from kilonova.cli.parts.bus import open_bus
from kilonova.config import Config
from kilonova.engine.faults import FaultPoints
from kilonova.image.http import HttpImages
from kilonova.monitoring.watch import Watch


@click.command(short_help="Run the agent of this host as a process of its own.")
@process.config_option(required=True)
@process.options
@agents.options
def compute(options: process.Options, config_file: Path, driver: str, hosts: int) -> None:
    """Run the agent of this host until Ctrl-C. Guests go on after it."""
    agents.check(driver, hosts)
    needs = ("bus", "hypervisor")
    process.run("compute", config_file, options, needs, partial(_start, driver=driver, hosts=hosts))


def _start(
    config: Config, stop: threading.Event, watch: Watch, closing: ExitStack, driver: str, hosts: int
) -> str:
    folder = Path(config.state).absolute() / "hosts"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    names = agents.host_names(config, hosts)
    for name in names:
        _hold(folder / f"{name}.lock", closing)
    known = driver != "fake" or config.service_user.auth_url
    images = HttpImages(config.service_user, config.region) if known else None
    make = agents.host_maker(driver, config, folder, images, process.say)
    bus = open_bus(config, agents.pools(config), watch, process.say, stop, closing)
    process.say("waiting for a conductor")
    agents.start_agents(config, bus, FaultPoints(config.faults), names, make, stop, watch, closing, images)
    return ", ".join(names if hosts < 5 else [*names[:2], "…", names[-1]])


def _hold(path: Path, closing: ExitStack) -> None:
    """Nobody else is the agent of this host. The lock ends with the process, however it ends."""
    lock = closing.enter_context(path.open("w"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise click.ClickException(f"another agent of this host is running ({path})") from error
