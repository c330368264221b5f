"""kill -9 in the middle of an upload: after the next start the image is queued and no bytes are left."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

MIB = 1 << 20
TOKEN = {"X-Auth-Token": "t"}
HEADERS = {**TOKEN, "Content-Type": "application/octet-stream"}


@contextmanager
def running(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """(process, port) of a server on ``folder``; killed at the end if it still lives."""
    script = Path(__file__).with_name("image_server.py")
    process = subprocess.Popen([sys.executable, script, folder], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait(60)
        process.stdout.close()


@pytest.mark.crash
def test_killed_in_the_middle_of_an_upload(tmp_path: Path) -> None:
    files = tmp_path / "images"
    with running(tmp_path) as (process, port):
        url = f"http://127.0.0.1:{port}/image"
        body = {"disk_format": "raw", "container_format": "bare"}
        path = requests.post(f"{url}/v2/images", json=body, headers=TOKEN, timeout=60).json()["self"]
        whole = requests.post(f"{url}/v2/images", json=body, headers=TOKEN, timeout=60).json()
        requests.put(f"{url}{whole['file']}", data=b"whole", headers=HEADERS, timeout=60)
        assert process.stdout
        assert process.stdout.readline() == "block\n"
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            lines = [f"PUT /image{path}/file HTTP/1.1", "Host: x", f"Content-Length: {100 * MIB}"]
            lines += [f"{name}: {value}" for name, value in HEADERS.items()]
            connection.sendall("\r\n".join([*lines, "", ""]).encode() + b"x" * 2 * MIB)
            assert process.stdout.readline() == "block\n"
            assert len(list(files.iterdir())) == 2
            process.send_signal(signal.SIGKILL)
            process.wait(60)
    assert any(file.name.endswith(".part") for file in files.iterdir())

    with running(tmp_path) as (process, port):
        url = f"http://127.0.0.1:{port}/image"
        assert [file.name for file in files.iterdir()] == [whole["id"]]
        assert requests.get(f"{url}{path}", headers=HEADERS, timeout=60).json()["status"] == "queued"
        again = requests.put(f"{url}{path}/file", data=b"again", headers=HEADERS, timeout=60)
        assert again.status_code == 204
        for own, data in ((path, b"again"), (whole["self"], b"whole")):
            assert requests.get(f"{url}{own}/file", headers=HEADERS, timeout=60).content == data
