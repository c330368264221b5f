"""What the host is and holds, as it is reported."""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from kilonova.domain.hosts import Capacity


def capacity(disk_gb: int) -> Capacity:
    """Of the machine, with so much for disks."""
    return Capacity(
        vcpus=os.cpu_count() or 1,
        memory_mb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1 << 20),
        disk_gb=disk_gb,
    )


def cpu_info(capabilities: str) -> dict[str, Any]:
    """The host's CPU from libvirt's capabilities, as the hypervisors API shows it."""
    cpu = ET.fromstring(capabilities).find("./host/cpu")  # noqa: S314 - libvirt's own document
    if cpu is None:
        return {}
    topology = cpu.find("topology")
    counts = {} if topology is None else {k: int(v) for k, v in topology.attrib.items() if v.isdigit()}
    return {
        "arch": cpu.findtext("arch"),
        "model": cpu.findtext("model"),
        "vendor": cpu.findtext("vendor"),
        "topology": {"cells": 1} | counts,
        "features": sorted(feature.attrib["name"] for feature in cpu.findall("feature")),
    }


def uptime() -> str:
    """What the command says; empty if there is none."""
    try:
        said = subprocess.run(
            ["uptime"],
            env=os.environ | {"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return said.stdout.strip()


def host_ip() -> str:
    """The address from which this machine reaches others; nothing is sent to find it."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # TEST-NET-1 (RFC 5737)
        return str(probe.getsockname()[0])
    return "127.0.0.1"


def supports_direct_io(folder: Path) -> bool:
    """Whether files there can be opened with O_DIRECT, which ``cache='none'`` needs."""
    path = folder / ".direct-io"
    try:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_DIRECT, 0o600))
    except OSError:
        return False
    finally:
        path.unlink(missing_ok=True)
    return True


def supports_direct_reads(path: Path) -> bool:
    """The same of a file that is there."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        return False
    return True
