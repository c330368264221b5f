"""What a check of ``kilonova doctor`` is, is asked about and finds; and how checks run programs."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from kilonova import config
from kilonova.virt.libvirt.needs import APT, Lacking


class Where(NamedTuple):
    """What the user asks about."""

    state: Path | None
    port: int | None
    network: config.Network = config.Network()
    ceph: bool = False
    """It is configured."""
    guests: config.Libvirt = config.Libvirt()
    tgt_sockets: tuple[Path, ...] = ()
    """Of the configured backends of iSCSI."""


class NotAsked(Exception):
    """The check is about something that the user did not name."""


class Check(NamedTuple):
    name: str
    look: Callable[[Where], str]
    """What was found, in a few words. Raises Lacking, or NotAsked."""
    meaning: str
    """What it means that this is lacking."""
    command: str
    """How to get it; empty if no command does."""
    needed: bool = True
    """Kilonova cannot boot a guest without it."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    check: str
    state: Literal["ok", "missing", "lesser", "mended", "failed"]
    """``lesser``: lacking, and Kilonova works all the same. ``mended``, ``failed``: what a host found wrong
    with its network, and did or could not mend, then."""
    found: str
    meaning: str = ""
    command: str = ""


def run(*command: str, text: str = "") -> str:
    """The command's output. Lacking if it cannot be run, or fails: then its own words."""
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=20, check=False)
    except FileNotFoundError:
        raise Lacking(f"no {command[0]}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Lacking(str(error)) from error
    if done.returncode != 0:
        raise Lacking((done.stderr.strip() or f"{command[0]} failed").splitlines()[0])
    return done.stdout


def version(text: str) -> str:
    found = re.search(r"\d+(\.\d+)+", text)
    return found[0] if found else text.strip()


def apt(*packages: str) -> str:
    return APT + " ".join(packages)
