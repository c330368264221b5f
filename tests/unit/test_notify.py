"""What a service manager hears (sd_notify)."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from kilonova.cli.parts import notify


@pytest.mark.parametrize("abstract", [False, True])
def test_it_hears_when_we_serve_and_stop(
    abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"@kilonova-{tmp_path}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        manager.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify.ready("http://here")
        assert manager.recv(1000) == b"READY=1\nSTATUS=http://here"
        notify.stopping()
        assert manager.recv(1000) == b"STOPPING=1"


def test_nobody_has_to_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify.ready("")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify.stopping()
