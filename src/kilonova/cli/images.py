"""`kilonova images`: what the hosts of this machine keep of images, and which servers are based on them."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from kilonova.domain.clock import iso8601
from kilonova.domain.errors import KilonovaError
from kilonova.virt.libvirt.cached import CachedImage, listed
from kilonova.virt.libvirt.folder import Folder

_WIDTH = 160
"""Columns where there is no terminal to ask."""


@click.command(short_help="List the images that this machine's host has cached.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("state"),
    show_default=True,
    help="The state folder of `kilonova up` or `kilonova compute`.",
)
def images(state: Path) -> None:
    """Each image in the cache: whose bytes it is, what it takes of the disk, when it was asked for last, and
    the servers with a disk that is based on it. Those keep it; others go after a while ([image_cache]).

    It reads the disks themselves, and needs no agent that runs.
    """
    found = [path.parent for path in sorted(state.glob("hosts/*/_base")) if path.is_dir()]
    if not found:
        raise click.ClickException(f"{state} has no host with a cache of images")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    for host in found:
        try:
            cached = listed(Folder(host))
        except (KilonovaError, OSError) as error:
            raise click.ClickException(f"{host.name}: {error}") from error
        console.print(_table(host.name, cached))


def _table(host: str, cached: list[CachedImage]) -> Table:
    total = sum(one.size for one in cached) >> 20
    table = Table(title=f"{host}: {len(cached)} images, {total} MiB", title_justify="left", box=None)
    for name in ("image", "MiB", "last used", "used by", "file"):
        table.add_column(name, justify="right" if name == "MiB" else "left", overflow="fold")
    for one in cached:
        users = "\n".join(one.used_by) if one.complete else "(not all of it has come)"
        names = "\n".join(one.images) or "?"
        table.add_row(names, str(one.size >> 20), iso8601(one.last_used), users, one.file[:16])
    return table
