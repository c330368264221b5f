"""`kilonova cluster`: make machines a cluster. One command a machine, as its root.

`init` makes the control node: database, broker, certificates, configuration, services. `add-host` there
gives a compute host its own credentials, in a file; `join` on the host makes use of them. Each may be run
again: what is there stays, what is missing is made.
"""

from __future__ import annotations

import click

from kilonova.cli.cluster.hosts import add_host, remove_host
from kilonova.cli.cluster.init import init
from kilonova.cli.cluster.join import join


@click.group(short_help="Set up a control node, and add compute hosts to it.")
def cluster() -> None:
    """Set up the machines of a cluster (docs/how-to/run-a-cluster.md)."""


for command in (init, add_host, remove_host, join):
    cluster.add_command(command)
