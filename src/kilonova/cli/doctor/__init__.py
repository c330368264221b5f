"""``kilonova doctor``: what this machine has, what it lacks, what that means, and the command that gets it.

Looks and tries, and changes nothing: devices and rules are tried in a network namespace that ends with the
process that made it. One function a check; each file's table CHECKS says which there are.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Literal

import click
import msgspec
from rich.console import Console

from kilonova import config
from kilonova.cli import network_checks
from kilonova.cli.doctor import machine, networking, places, storage, switch
from kilonova.cli.doctor.check import Check, Finding, NotAsked, Where
from kilonova.cli.doctor.printing import print_findings, print_lately
from kilonova.cli.parts.process import config_option
from kilonova.domain.errors import BadRequest
from kilonova.virt.libvirt.needs import Lacking

CHECKS: tuple[Check, ...] = (
    *machine.CHECKS,
    *networking.CHECKS,
    *storage.CHECKS,
    *switch.CHECKS,
    *places.CHECKS,
)


@click.command()
@click.option("--state", type=click.Path(path_type=Path), help="Look at this state folder, too.")
@click.option("--port", type=click.IntRange(1, 65535), help="See whether this port is free, too.")
@config_option(required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option(
    "--orphans",
    "only_orphans",
    is_flag=True,
    help="Instead, list volumes, images and disks here that no record explains.",
)
def doctor(
    state: Path | None, port: int | None, config_file: Path | None, as_json: bool, only_orphans: bool
) -> None:
    """Say what this machine lacks to run guests, and how to get it."""
    if only_orphans:
        from kilonova.cli import orphans

        sys.exit(orphans.show(state, config_file, as_json))
    try:
        options = config.load(config_file)
    except BadRequest as error:
        raise click.ClickException(error.message) from error
    ceph, sockets = _has_ceph(options), _tgt_sockets(options)
    findings = examine(Where(state, port, options.network, ceph, options.libvirt, sockets))
    lately = _lately(state) if state else []
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(findings + lately), indent=2))
    else:
        print_findings(findings, Console())
        print_lately(lately, Console())
    if any(finding.state == "missing" for finding in findings):
        sys.exit(1)


def _has_ceph(options: config.Config) -> bool:
    in_volumes = any(backend.driver == "rbd" for backend in options.volume.backends.values())
    return in_volumes or options.image.backend == "rbd" or options.libvirt.images_type == "rbd"


def _tgt_sockets(options: config.Config) -> tuple[Path, ...]:
    backends = options.volume.backends.values()
    return tuple(Path(one.tgt_socket) for one in backends if one.driver == "iscsi")


def examine(where: Where) -> list[Finding]:
    """All checks, in the order of the table."""
    findings = []
    for check in CHECKS:
        try:
            found = check.look(where)
        except NotAsked:
            continue
        except Lacking as lacking:
            state: Literal["missing", "lesser"] = "missing" if check.needed else "lesser"
            findings.append(
                Finding(
                    check=check.name,
                    state=state,
                    found=str(lacking),
                    meaning=check.meaning,
                    command=check.command,
                )
            )
        else:
            findings.append(Finding(check=check.name, state="ok", found=found))
    return findings


def _lately(state: Path) -> list[Finding]:
    """What hosts of that folder found wrong with their networks, the oldest first."""
    return [
        Finding(
            check=f"network of {host}",
            state="mended" if one.mended else "failed",
            found=one.what,
            meaning=network_checks.when(one),
        )
        for host, one in network_checks.lately(state)
    ]
