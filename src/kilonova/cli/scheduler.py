"""`kilonova scheduler`: picks hosts, and claims them."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

import click

from kilonova.cli.parts import process
from kilonova.cli.parts.bus import open_bus
from kilonova.cli.parts.conductor import start_scheduler
from kilonova.cli.parts.database import keep_alive, open_database
from kilonova.config import Config
from kilonova.engine.faults import FaultPoints
from kilonova.monitoring.watch import Watch


@click.command(short_help="Run a scheduler as a process of its own.")
@process.config_option(required=True)
@process.options
def scheduler(options: process.Options, config_file: Path) -> None:
    """Run a scheduler until Ctrl-C. As many as wanted may run; a claim is one transaction."""
    process.run("scheduler", config_file, options, ("database", "bus"), _start)


def _start(config: Config, stop: threading.Event, watch: Watch, closing: ExitStack) -> str:
    db = open_database(config, process.database_url(config), watch, process.say, stop, closing)
    bus = open_bus(config, {}, watch, process.say, stop, closing)
    start_scheduler(config, db, bus, FaultPoints(config.faults), closing)
    keep_alive(config, db, ["nova-scheduler"], closing)
    return ""
