"""What system tests share: a guest image that boots."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.namespaces import at_home

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def guest_image() -> Path:
    """A qcow2 that boots to a login prompt, made by the project's own builder and kept in ``build/``."""
    path = ROOT / "build" / "guest.qcow2"
    mkguest = [sys.executable, str(ROOT / "tools" / "mkguest"), "-o", str(path)]
    # It downloads packages: there is no way to them from the network of a module's own host.
    made = at_home(lambda: subprocess.run(mkguest, capture_output=True, text=True, timeout=300, check=False))
    assert made.returncode == 0, f"tools/mkguest failed: {made.stderr}"
    return path
