"""The findings for people: a table, the commands that get what is missing, what agents found."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kilonova.cli.doctor.check import Finding
from kilonova.virt.libvirt.needs import APT

_STYLES = {"ok": "green", "missing": "bold red", "lesser": "yellow", "mended": "cyan", "failed": "bold red"}

_MANY = 30
"""Of what was found lately, for people."""


def print_findings(findings: list[Finding], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("", "check", "found", "what it means"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        found = Text(finding.found)  # not markup: [::1] is an address
        table.add_row(finding.state, finding.check, found, finding.meaning, style=_STYLES[finding.state])
    console.print(table)
    commands = _merged([finding.command for finding in findings if finding.command])
    if commands:
        console.print("\nTo get what is missing:")
    for command in commands:
        console.print(f"  {command}", highlight=False, soft_wrap=True)


def print_lately(findings: list[Finding], console: Console) -> None:
    if findings:
        console.print("\nWhat agents found wrong lately, and mended or failed to:")
    if (more := len(findings) - _MANY) > 0:
        console.print(f"  ({more} earlier ones of the last day: --json)", highlight=False)
    for one in findings[-_MANY:]:
        console.print(f"  {one.meaning}  {one.state}  {one.check}", style=_STYLES[one.state], highlight=False)
        console.print(f"    {one.found}", highlight=False, markup=False, soft_wrap=True)


def _merged(commands: list[str]) -> list[str]:
    """The same, with one call of apt-get for all packages."""
    packages = dict.fromkeys(command.removeprefix(APT) for command in commands if command.startswith(APT))
    others = [command for command in commands if not command.startswith(APT)]
    return [APT + " ".join(packages), *others] if packages else others
