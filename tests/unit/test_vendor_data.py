"""What the operator tells guests: read from a file, asked from services that may fail as they like."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from kilonova.compute import vendor_data
from kilonova.config import Api
from kilonova.domain.servers import GuestMetadata

GUEST = GuestMetadata(
    server_id="s", name="n", hostname="h", project_id="p", image_id="i", user_data=b"x", metadata={"a": "b"}
)


@dataclass
class Target:
    """A service of the operator's."""

    url: str = ""
    status: int = 200
    answer: bytes = b'{"a": 1}'
    asked: list[Any] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def target() -> Iterator[Target]:
    target = Target()
    target.hold.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            target.asked.append((self.path, json.loads(self.rfile.read(length))))
            target.hold.wait(30)
            self.send_response(target.status)
            self.end_headers()
            self.wfile.write(target.answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    target.url = f"http://127.0.0.1:{server.server_port}/v?x=1"
    yield target
    target.hold.set()
    server.shutdown()
    thread.join()
    server.server_close()


def dynamic(*targets: str, **more: Any) -> dict[str, Any]:
    return vendor_data.dynamic(Api(vendordata_dynamic_targets=list(targets), **more), GUEST)


def test_services_are_asked_about_the_guest(target: Target) -> None:
    assert dynamic(f"one@{target.url}", f"two@{target.url}") == {"one": {"a": 1}, "two": {"a": 1}}
    path, body = target.asked[0]
    assert path == "/v?x=1"
    assert body == {
        "project-id": "p",
        "instance-id": "s",
        "image-id": "i",
        "user-data": "eA==",
        "hostname": "h",
        "metadata": {"a": "b"},
        "boot-roles": "",
    }


@pytest.mark.parametrize(
    ("status", "answer", "had"),
    [
        (200, b"", {}),
        (200, b"[]", {}),
        (200, b"{", {}),
        (200, b"\xff", {}),
        (200, b'{"a": "' + b"x" * vendor_data.MAX_BYTES + b'"}', {}),
        (500, b'{"a": 1}', {}),
        (302, b"", {}),
    ],
)
def test_what_is_no_good_answer_is_none(target: Target, status: int, answer: bytes, had: object) -> None:
    target.status, target.answer = status, answer
    assert dynamic(f"one@{target.url}") == {"one": had}


def test_who_is_away_or_too_slow_harms_nobody_else(target: Target) -> None:
    target.hold.clear()
    found = dynamic("away@http://127.0.0.1:1/", f"slow@{target.url}", vendordata_dynamic_read_timeout=0.2)
    assert found == {"away": {}, "slow": {}}


def test_the_file(tmp_path: Path) -> None:
    path = tmp_path / "vendor.json"
    config = Api(vendordata_jsonfile_path=str(path))
    assert vendor_data.static(Api()) == {}
    assert vendor_data.static(config) == {}
    for content, had in [(b'{"a": 1}', {"a": 1}), (b"[]", {}), (b"{", {}), (b"\xff", {})]:
        path.write_bytes(content)
        assert vendor_data.static(config) == had


@pytest.mark.parametrize(
    "target", ["http://x/", "@http://x/", "one@ftp://x/", "static@http://x/", "one@http://"]
)
def test_targets_that_are_none(target: str) -> None:
    with pytest.raises(ValueError, match="vendordata_dynamic_targets"):
        Api(vendordata_dynamic_targets=[target])
