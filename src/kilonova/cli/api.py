"""`kilonova api`: every API, over HTTP."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click

from kilonova.cli.parts import api as parts
from kilonova.cli.parts import process
from kilonova.cli.parts.bus import make_bus
from kilonova.cli.parts.database import open_database
from kilonova.cli.state import Folder
from kilonova.config import Config
from kilonova.engine.faults import FaultPoints
from kilonova.identity.service import Identity
from kilonova.monitoring.watch import Watch


@click.command(short_help="Run the APIs as a process of their own.")
@process.config_option(required=True)
@process.options
@click.option("--address", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8774,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
def api(options: process.Options, config_file: Path, address: str, port: int) -> None:
    """Answer requests of every API until Ctrl-C. As many as wanted may run."""
    start = partial(_start, address=address, port=port)
    process.run("api", config_file, options, ("database",), start)


def _start(
    config: Config, stop: threading.Event, watch: Watch, closing: ExitStack, address: str, port: int
) -> str:
    server = parts.listen(address, port, closing)
    db = open_database(config, process.database_url(config), watch, process.say, stop, closing)
    folder = Folder(Path(config.state))
    identity = Identity(db, config, parts.key_folder(config, folder))
    ours = parts.bootstrap(db, identity, folder)
    images, _ = parts.open_images(config, db, parts.image_folder(config, folder), closing)
    bus = make_bus(config, {}, watch, closing)  # nothing here waits for the broker
    parts.serve(server, config, db, bus, identity, images, FaultPoints(config.faults), watch, closing)
    url = server.url
    if not ours:
        return url
    folder.write_credentials(url, config.region)
    return f"{url} (credentials: {folder.clouds})"
