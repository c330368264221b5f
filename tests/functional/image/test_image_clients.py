"""The unmodified ``openstack`` client and raw sockets against a real HTTP server."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from cheroot import wsgi

from kilonova.api import bodies, image
from kilonova.api.http import Reply, Request, Route, Service, application
from kilonova.config import Config
from kilonova.config import Image as ImageConfig
from kilonova.image.service import Images

from .conftest import BOB, authenticate

MIB = 1 << 20


def show_project(_state: None, _request: Request, project: str) -> Reply:
    return Reply(body={"project": {"id": project, "name": project}})


def discover(_state: None, request: Request) -> Reply:
    links = [{"rel": "self", "href": f"{request.url}/v3"}]
    return Reply(body={"version": {"id": "v3.14", "status": "stable", "links": links}})


def log_in(_state: None, request: Request) -> Reply:
    """A user's name is its token."""
    user = request.json(dict[str, Any])["auth"]["identity"]["password"]["user"]["name"]
    root = request.url.removesuffix("/identity")
    catalog = [
        {
            "type": kind,
            "name": kind,
            "endpoints": [{"interface": "public", "region_id": "R", "url": f"{root}/{path}"}],
        }
        for kind, path in (("image", "image"), ("identity", "identity/v3"))
    ]
    expires = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S.000000Z")
    token = {"methods": ["password"], "expires_at": expires, "catalog": catalog, "user": {"id": user}}
    return Reply(201, {"token": token}, {"X-Subject-Token": user})


IDENTITY = Service(
    name="identity",
    prefix="/identity",
    routes=[
        Route("GET", "/v3", discover, public=True),
        Route("POST", "/v3/auth/tokens", log_in, public=True),
        Route("GET", "/v3/projects/{project}", show_project),
    ],
    state=None,
    fault=lambda _request, status, message, _error: {"error": {"code": status, "message": message}},
)


@pytest.fixture
def url(images: Images) -> Iterator[str]:
    app = application([image.service(images), IDENTITY], authenticate)
    server = wsgi.Server(("127.0.0.1", 0), app, numthreads=4, timeout=5)
    server.gateway = bodies.Gateway
    server.prepare()
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield f"http://127.0.0.1:{server.bind_addr[1]}"
    server.stop()
    thread.join(60)


class OpenStack:
    """The client as one user of it. Raises AssertionError with the client's words when a command fails."""

    def __init__(self, url: str, token: str, folder: Path) -> None:
        user = {"username": token, "password": "x", "user_domain_name": "d"}
        auth = {"auth_url": f"{url}/identity/v3", "project_id": "p", **user}
        cloud = {"auth_type": "v3password", "auth": auth, "region_name": "R"}
        config = folder / f"{token}.json"
        config.write_text(json.dumps({"clouds": {"test": cloud}}))
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("openstack_shell.py"))],
            env={**kept, "OS_CLIENT_CONFIG_FILE": str(config), "OS_CLOUD": "test"},
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        status, out, err = json.loads(self._process.stdout.readline())
        return status, out, err

    def __call__(self, *arguments: str) -> str:
        status, out, err = self.run(*arguments)
        assert status == 0, err
        return out

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "-f", "json"))

    def fails(self, *arguments: str) -> str:
        status, _, err = self.run(*arguments)
        assert status != 0
        return err

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(60)


@pytest.fixture
def alice(url: str, tmp_path: Path) -> Iterator[OpenStack]:
    client = OpenStack(url, "alice", tmp_path)
    yield client
    client.close()


@pytest.fixture
def bob(url: str, tmp_path: Path) -> Iterator[OpenStack]:
    client = OpenStack(url, "bob", tmp_path)
    yield client
    client.close()


def test_the_openstack_client(alice: OpenStack, bob: OpenStack, tmp_path: Path, folder: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-f", "qcow2", disk, "1G"], check=True, capture_output=True)
    disk.write_bytes(disk.read_bytes() + os.urandom(3 * MIB))
    made = alice.json(
        *("image", "create", "cirros", "--file", str(disk), "--disk-format", "qcow2"),
        *("--min-disk", "1", "--property", "hw_disk_bus=virtio", "--tag", "small"),
    )
    assert made["status"] in ("queued", "active")

    shown = alice.json("image", "show", "cirros")
    assert shown["status"] == "active"
    assert shown["size"] == disk.stat().st_size
    assert shown["virtual_size"] == 1 << 30
    assert shown["checksum"] == hashlib.md5(disk.read_bytes()).hexdigest()
    assert shown["properties"]["hw_disk_bus"] == "virtio"
    assert shown["tags"] == ["small"]

    assert [row["Name"] for row in alice.json("image", "list", "--tag", "small")] == ["cirros"]
    assert alice.json("image", "list", "--long", "--name", "cirros")[0]["Hash Algorithm"] == "sha512"
    assert alice.json("image", "list", "--community") == []

    alice("image", "set", "cirros", "--name", "new name", "--property", "os_distro=debian", "--tag", "x")
    alice("image", "unset", "new name", "--property", "hw_disk_bus", "--tag", "small")
    shown = alice.json("image", "show", "new name")
    assert shown["tags"] == ["x"]
    assert shown["properties"].get("os_distro", shown.get("os_distro")) == "debian"
    assert "hw_disk_bus" not in shown["properties"]

    saved = tmp_path / "saved"
    alice("image", "save", "new name", "--file", str(saved), "--chunk-size", str(MIB))
    assert saved.read_bytes() == disk.read_bytes()

    assert bob.json("image", "list") == []
    alice("image", "add", "project", made["id"], BOB)
    assert alice.json("image", "member", "list", made["id"])[0]["Status"] == "pending"
    bob("image", "set", made["id"], "--accept", "--project", BOB)
    assert [row["Name"] for row in bob.json("image", "list")] == ["new name"]
    assert "403" in bob.fails("image", "delete", made["id"])
    alice("image", "remove", "project", made["id"], BOB)
    assert "No Image found for" in bob.fails("image", "show", made["id"])

    alice("image", "set", made["id"], "--deactivate", "--protected")
    alice.fails("image", "save", made["id"], "--file", str(saved))
    assert "is protected" in alice.fails("image", "delete", made["id"])
    alice("image", "set", made["id"], "--activate", "--unprotected")
    alice("image", "delete", made["id"])
    assert alice.json("image", "list") == []
    assert list(folder.iterdir()) == []


def test_the_client_shows_why_an_image_is_refused(alice: OpenStack, tmp_path: Path, folder: Path) -> None:
    evil = tmp_path / "evil"
    create = ["qemu-img", "create", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/shadow", evil, "1G"]
    subprocess.run(create, check=True, capture_output=True)
    refused = ("image", "create", "evil", "--file", str(evil), "--disk-format")
    assert "Image has a backing file" in alice.fails(*refused, "qcow2")
    assert "does not match stream data qcow2" in alice.fails(*refused, "raw")
    assert "not support the image import" in alice.fails(*refused, "qcow2", "--import")
    assert "Multi Backend" in alice.fails("image", "stores", "list")
    for row in alice.json("image", "list"):  # what a client that asked for an import leaves
        assert row["Status"] == "queued"
    assert list(folder.iterdir()) == []


HEADERS = {"X-Auth-Token": "alice", "Content-Type": "application/octet-stream"}


def create(url: str) -> str:
    """The URL of a new queued image."""
    body = {"disk_format": "raw", "container_format": "bare"}
    answer = requests.post(f"{url}/image/v2/images", json=body, headers={"X-Auth-Token": "alice"}, timeout=60)
    return f"{url}/image{answer.json()['self']}"


def show(image_url: str) -> dict[str, Any]:
    answer = requests.get(image_url, headers={"X-Auth-Token": "alice"}, timeout=60)
    return dict(answer.json())


def test_a_chunked_upload(url: str) -> None:
    made = create(url)
    parts = [os.urandom(size) for size in (1, 100_000, 3 * MIB, 7)]
    answer = requests.put(f"{made}/file", data=iter(parts), headers=HEADERS, timeout=60)
    assert answer.status_code == 204
    assert show(made)["checksum"] == hashlib.md5(b"".join(parts)).hexdigest()
    assert requests.get(f"{made}/file", headers=HEADERS, timeout=60).content == b"".join(parts)


def send(url: str, data: bytes, close: bool = True) -> bytes:
    """What the server answers to raw bytes."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(data)
        if close:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


def put(image_url: str, framing: str, token: str = "alice") -> bytes:
    path = "/" + image_url.split("/", 3)[3]
    return (
        f"PUT {path}/file HTTP/1.1\r\nHost: x\r\nX-Auth-Token: {token}\r\n"
        f"Content-Type: application/octet-stream\r\n{framing}\r\n\r\n"
    ).encode()


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        ("Content-Length: 1000", b"only this"),
        ("Transfer-Encoding: chunked", b"5\r\nfirst\r\n"),
        ("Transfer-Encoding: chunked", b"5\r\nfirst\r\nff\r\nand then"),
        ("Transfer-Encoding: chunked", b"5\r\nfirst\r\n-5\r\n\r\n"),
        ("Transfer-Encoding: chunked", b"5\r\nlonger than that\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", b"zz\r\n"),
        ("Transfer-Encoding: chunked", b"7fffffffffffffff\r\nx"),
    ],
)
def test_a_truncated_upload_leaves_nothing(url: str, folder: Path, framing: str, body: bytes) -> None:
    made = create(url)
    answer = send(url, put(made, framing) + body)
    assert answer.startswith(b"HTTP/1.1 400"), answer
    assert show(made)["status"] == "queued"
    assert list(folder.iterdir()) == []
    assert requests.put(f"{made}/file", data=b"whole", headers=HEADERS, timeout=60).status_code == 204


def peak_memory() -> int:
    """Bytes; of this process, where the server runs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def stream(connection: socket.socket, total: int) -> None:
    block = b"\0" * MIB
    for _ in range(total // MIB):
        connection.sendall(block)


@pytest.mark.parametrize(
    ("token", "framing", "status"),
    [
        ("alice", "Content-Length: {size}", b"204"),
        ("alice", "Transfer-Encoding: chunked", b"204"),
        ("stolen", "Content-Length: {size}", b"401"),
        ("stolen", "Transfer-Encoding: chunked", b"401"),
    ],
)
def test_no_upload_fills_the_memory(url: str, token: str, framing: str, status: bytes) -> None:
    """Sent at full length, in one chunk, taken or refused: the next request on the connection works too."""
    made, size = create(url), 256 * MIB
    host, port = url.removeprefix("http://").split(":")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before = peak_memory()
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(put(made, framing.format(size=size), token))
        if "chunked" in framing:
            connection.sendall(f"{size:x}\r\n".encode())
        stream(connection, size)
        if "chunked" in framing:
            connection.sendall(b"\r\n0\r\n\r\n")
        connection.sendall(b"GET /image HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"HTTP/1.1 300" in answer
    assert peak_memory() - before < 64 * MIB


class TestLimit:
    @pytest.fixture
    def config(self) -> Config:
        return Config(image=ImageConfig(max_size=MIB))

    def test_too_much_is_413_and_not_waited_for(self, url: str, folder: Path) -> None:
        made = create(url)
        start = time.monotonic()
        answer = send(url, put(made, f"Content-Length: {1 << 50}") + b"x" * MIB, close=False)
        assert answer.startswith(b"HTTP/1.1 413")
        assert time.monotonic() - start < 4
        assert show(made)["status"] == "queued"
        assert list(folder.iterdir()) == []
