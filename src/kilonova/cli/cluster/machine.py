"""This machine, as the commands change it: files, programs, systemd."""

from __future__ import annotations

import grp
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import click

import kilonova

CONTROL = (
    "kilonova-api.socket",
    "kilonova-api.service",
    "kilonova-conductor.service",
    "kilonova-scheduler.service",
    "kilonova-volume.service",
)
ISCSI = ("kilonova-tgt.service",)
"""Of a control node, for who wants it: it is there and not enabled."""
COMPUTE = ("kilonova-compute.service",)
TARGET = "kilonova.target"
_TIMEOUT = 120.0


def must_be_root() -> None:
    if os.geteuid() != 0:
        raise click.ClickException("this changes the machine's configuration: run it as root")


def run(*command: str, told: str = "", needs: str) -> str:
    """What the program prints, given ``told`` on its standard input.

    ClickException: it is not installed (``needs`` says what brings it), it failed, or it hangs.
    """
    if shutil.which(command[0]) is None:
        raise click.ClickException(f"there is no {command[0]} on this machine: install {needs}")
    try:
        done = subprocess.run(
            command, input=told, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise click.ClickException(f"{command[0]} has not ended after {_TIMEOUT:.0f} s") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise click.ClickException(f"{command[0]} failed: {said or f'status {done.returncode}'}")
    return done.stdout


class Files:
    """The files below ``root``, which is / but for tests and images of disks."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.etc = root / "etc/kilonova"

    def write(self, path: Path, text: str, mode: int = 0o644, group: str = "") -> None:
        """Replaced as a whole; nobody reads a secret in it before its mode is set. ``group``: if there is one
        of that name, the file is its."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.new")
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            with suppress(KeyError):
                if group:
                    os.fchown(file.fileno(), -1, grp.getgrnam(group).gr_gid)
            os.fchmod(file.fileno(), mode)
        fresh.rename(path)
        click.echo(f"wrote {path}")

    def install_units(self, wanted: tuple[str, ...]) -> None:
        """systemd's units."""
        for name in (*wanted, TARGET):
            self.write(self.root / "etc/systemd/system" / name, (_source() / name).read_text())

    def install_user(self) -> None:
        """The user whom the control plane runs as, and what it may read, for systemd at each boot."""
        for kind in ("sysusers", "tmpfiles"):
            text = (_source() / f"kilonova.{kind}").read_text()
            self.write(self.root / f"etc/{kind}.d/kilonova.conf", text)


def _source() -> Path:
    """Where the units are: in the package, or in the source tree that it runs from."""
    installed = Path(__file__).with_name("units")
    return installed if installed.exists() else Path(kilonova.__file__).parents[2] / "packaging/systemd"


def make_user(name: str) -> None:
    """The system user whom the control plane runs as, by the file in sysusers.d; and it can run us.

    ClickException: it cannot.
    """
    run("systemd-sysusers", "kilonova.conf", needs="systemd")
    try:
        run("runuser", "-u", name, "--", "kilonova", "--version", needs="util-linux")
    except click.ClickException as error:
        raise click.ClickException(
            f"the user {name} cannot run kilonova ({error.message}): install it, and the Python that it uses,"
            " where everybody may read, like /opt/kilonova, with a link to it in /usr/local/bin"
        ) from error


def enable(units: tuple[str, ...]) -> None:
    """Now and at each boot; returns when they serve. ClickException tells the end of the log otherwise."""
    run("systemctl", "daemon-reload", needs="systemd")
    run("systemctl", "enable", *units, TARGET, needs="systemd")
    for unit in (*units, TARGET):
        click.echo(f"starting {unit}")
        try:
            # What runs already may have an older configuration; all of a target is more than was asked for.
            run("systemctl", "start" if unit == TARGET else "restart", unit, needs="systemd")
        except click.ClickException as error:
            log = run(
                "journalctl", "--no-pager", "--lines=15", "--output=cat", f"--unit={unit}", needs="systemd"
            )
            raise click.ClickException(f"{unit} did not start: {error.message}\n{log}") from error
