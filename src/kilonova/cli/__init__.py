"""The command line; the only place that names concrete parts and wires them together."""

from __future__ import annotations

from importlib import import_module

import click

from kilonova import __version__

COMMANDS = {
    "up": "kilonova.cli.up",
    "api": "kilonova.cli.api",
    "conductor": "kilonova.cli.conductor",
    "scheduler": "kilonova.cli.scheduler",
    "compute": "kilonova.cli.compute",
    "volume": "kilonova.cli.volume",
    "trace": "kilonova.cli.trace",
    "doctor": "kilonova.cli.doctor",
    "images": "kilonova.cli.images",
    "db": "kilonova.cli.db",
    "cluster": "kilonova.cli.cluster",
}
"""Command → the module that holds a click command of that name; loaded when it is asked for."""


class _Lazy(click.Group):
    """A group that imports a command only when it is used: `kilonova --help` costs nothing."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(COMMANDS[cmd_name]), cmd_name)
        return command


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kilonova")
def main() -> None:
    """OpenStack compute in one command."""
