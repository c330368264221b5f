"""`kilonova conductor`: runs the long operations; the computes' only way to the database."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

import click

from kilonova.cli.parts import conductor as parts
from kilonova.cli.parts import process
from kilonova.cli.parts.bus import open_bus
from kilonova.cli.parts.database import count_work, keep_alive, open_database
from kilonova.config import Config
from kilonova.engine.faults import FaultPoints
from kilonova.monitoring.watch import Watch


@click.command(short_help="Run a conductor as a process of its own.")
@process.config_option(required=True)
@process.options
def conductor(options: process.Options, config_file: Path) -> None:
    """Run a conductor until Ctrl-C. As many as wanted may run; they share the work."""
    process.run("conductor", config_file, options, ("database", "bus"), _start)


def _start(config: Config, stop: threading.Event, watch: Watch, closing: ExitStack) -> str:
    db = open_database(config, process.database_url(config), watch, process.say, stop, closing)
    bus = open_bus(config, {}, watch, process.say, stop, closing)
    running = parts.start_conductor(config, db, bus, FaultPoints(config.faults), closing)
    parts.sweep(running, closing)
    count_work(config, db, watch)
    keep_alive(config, db, ["nova-conductor"], closing)
    return f"({running.name})"
