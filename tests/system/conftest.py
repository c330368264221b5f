"""What system tests share: a guest image that boots."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def guest_image() -> Path:
    """A qcow2 that boots to a login prompt, made by the project's own builder and kept in ``build/``."""
    path = ROOT / "build" / "guest.qcow2"
    made = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "mkguest"), "-o", str(path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert made.returncode == 0, f"tools/mkguest failed: {made.stderr}"
    return path
