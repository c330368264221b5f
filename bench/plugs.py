"""A port on and off its network, by each kind of plug; and by os-vif, OpenStack's own library for it.

Ours makes the tap, rules and DHCP too, which os-vif leaves to others. Both in one network namespace, with a
switch of their own that works in user space.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from uuid import uuid4

from tests.namespaces import at_home
from tests.openvswitch import OpenVSwitch, installed
from tests.plugs import KINDS, config_of, host_with
from tests.system.host_network.lab import make_vif, subnet

from bench.figure import Figure
from bench.load import p50
from kilonova.domain.network import PlugKind
from kilonova.network.host import LinuxHost

_ROUNDS = 25
_PROMISED: dict[PlugKind, int | None] = {"bridge": 60, "ovs-hybrid": 120, "ovs": None}


def plugs() -> list[Figure]:
    if os.geteuid() != 0 or not installed():
        return []
    figures = []
    with tempfile.TemporaryDirectory(prefix="kilonova-bench-") as folder:
        os_vif = _os_vif_python(Path(folder))
        for kind in KINDS:
            with host_with(kind) as (own, switch):
                taken = p50(_ours(kind, own, switch))
                theirs = _by_os_vif(os_vif, kind, switch) if os_vif and switch else None
            figures.append(Figure(f"plug and unplug of a port, {kind}, p50", taken, "ms", _PROMISED[kind]))
            if theirs is not None:
                figures.append(Figure(f"… by os-vif, {kind}, p50", p50(theirs), "ms"))
    if os_vif is None:
        print("os-vif cannot be installed here: its figures are missing")
    return figures


def _ours(kind: PlugKind, folder: Path, switch: OpenVSwitch | None) -> list[float]:
    """Of a port on a network that has another on the host."""
    host = LinuxHost(config_of(kind, switch), folder / "network")
    host.start(lambda network, address: None)
    network, of = str(uuid4()), subnet()
    other = make_vif(of, 5, network)
    host.plug(other)
    taken = []
    for _ in range(_ROUNDS):
        vif = make_vif(of, 6, network)
        began = time.perf_counter()
        host.plug(vif)
        host.unplug(vif.port_id)
        taken.append(time.perf_counter() - began)
    host.unplug(other.port_id)
    host.stop()
    return taken


def _os_vif_python(folder: Path) -> Path | None:
    """The Python of a new virtual environment that has os-vif; None if that cannot be had."""
    python = folder / "venv" / "bin" / "python"
    commands = [
        [sys.executable, "-m", "venv", str(folder / "venv")],
        [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "os-vif"],
    ]
    for command in commands:
        done = at_home(lambda: subprocess.run(command, capture_output=True, timeout=600, check=False))  # noqa: B023
        if done.returncode:
            return None
    return python


def _by_os_vif(python: Path, kind: PlugKind, switch: OpenVSwitch) -> list[float]:
    script = Path(__file__).with_name("os_vif_plug.py")
    command = [str(python), str(script), kind, switch.connection, str(_ROUNDS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return [float(seconds) for seconds in json.loads(done.stdout.splitlines()[-1])]
