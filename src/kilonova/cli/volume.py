"""`kilonova volume`: works with the volumes' bytes, on the backends of its configuration."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

import click

from kilonova.cli.parts import api as api_parts
from kilonova.cli.parts import process, volumes
from kilonova.cli.parts.bus import open_bus
from kilonova.cli.parts.database import open_database
from kilonova.cli.state import Folder
from kilonova.config import Config
from kilonova.engine.faults import FaultPoints
from kilonova.monitoring.watch import Watch


@click.command(short_help="Run a volume manager as a process of its own.")
@process.config_option(required=True)
@process.options
def volume(options: process.Options, config_file: Path) -> None:
    """Take the work of volumes until Ctrl-C. Those of one [volume] name, with shared backends, share it.

    It reads and writes the images where the API keeps them.
    """
    process.run("volume", config_file, options, ("database", "bus"), _start)


def _start(config: Config, stop: threading.Event, watch: Watch, closing: ExitStack) -> str:
    db = open_database(config, process.database_url(config), watch, process.say, stop, closing)
    folder = Folder(Path(config.state))
    images, store = api_parts.open_images(config, db, api_parts.image_folder(config, folder), closing)
    bus = open_bus(config, {}, watch, process.say, stop, closing)
    faults = FaultPoints(config.faults)
    return volumes.start_manager(config, db, bus, images, store, folder.path, faults, closing)
