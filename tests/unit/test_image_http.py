"""A host's way to the images, when the image service is not as it should be."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from kilonova.config import ServiceUser
from kilonova.domain.errors import BadRequest, Forbidden, KilonovaError, NotFound, Unavailable
from kilonova.domain.servers import ImageLocation
from kilonova.image.http import HttpImages

DATA = bytes(range(256)) * 8


class Service(ThreadingHTTPServer):
    """Identity and images, all of them the same."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.elsewhere = ""
        self.breaks = False
        self.tokens: list[str | None] = []
        self.given: list[tuple[str, str, Any]] = []
        """Locations: to which image, by which token."""
        self.answer: tuple[int, bytes] = (202, b"")


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/locations"):
            self.server.given.append((self.path, self.headers["X-Auth-Token"], json.loads(body)))
            self._say(*self.server.answer)
            return
        endpoint = {"interface": "public", "region": "R", "url": self.server.url}
        token = {"token": {"catalog": [{"type": "image", "endpoints": [endpoint]}]}}
        self._say(201, json.dumps(token).encode(), **{"X-Subject-Token": "secret"})

    def do_GET(self) -> None:
        self.server.tokens.append(self.headers["X-Auth-Token"])
        if self.server.elsewhere:
            self._say(302, b"", Location=self.server.elsewhere)
        elif self.server.breaks:
            self._say(200, b"%x\r\n" % (2 * len(DATA)) + DATA, **{"Transfer-Encoding": "chunked"})
        else:
            self._say(200, DATA)

    def _say(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        if "Transfer-Encoding" not in headers:
            headers["Content-Length"] = str(len(body))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def start() -> Iterator[type[Service]]:
    """Makes services that run until the test's end."""
    made: list[Service] = []

    class Started(Service):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)
            threading.Thread(target=self.serve_forever, daemon=True).start()

    yield Started
    for one in made:
        one.shutdown()
        one.server_close()


def images(service: Service) -> HttpImages:
    return HttpImages(ServiceUser(auth_url=service.url, username="u", password="p"), "R")


def test_a_token_goes_nowhere_else(start: type[Service]) -> None:
    service, other = start(), start()
    service.elsewhere = f"{other.url}/v2/images/1/file"
    with pytest.raises(Unavailable, match="302"):
        images(service).open("1")
    assert (service.tokens, other.tokens) == (["secret"], [])


def test_what_is_passed_over_may_break_too(start: type[Service]) -> None:
    """The service knows no ranges, and ends before where the transfer is to go on."""
    service = start()
    with images(service).open("1") as stream:
        service.breaks = True
        with pytest.raises(ConnectionError):
            stream.seek(len(DATA) + 1)


AT = ImageLocation(fsid="f", pool="vms", image="x_disk", snapshot="taken")


def test_the_image_service_is_told_where_a_disk_is(start: type[Service]) -> None:
    service = start()
    images(service).upload_from("i", AT)
    assert service.given == [("/v2/images/i/locations", "secret", {"url": "rbd://f/vms/x_disk/taken"})]


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (400, b'{"message": "images are kept in files"}', BadRequest, "image i: images are kept in files"),
        (400, b"<html>", BadRequest, "image i: 400 Bad Request"),
        (403, b"{}", Forbidden, "image i: the [service_user] may not have it"),
        (404, b"{}", NotFound, "image i: the image service has none"),
        (409, b"{}", Unavailable, "image i: 409 Conflict"),
        (503, b"{}", Unavailable, "image i: 503 Service Unavailable"),
    ],
)
def test_what_it_says_to_that(
    start: type[Service], status: int, body: bytes, kind: type[KilonovaError], words: str
) -> None:
    service = start()
    service.answer = (status, body)
    with pytest.raises(kind) as refused:
        images(service).upload_from("i", AT)
    assert (type(refused.value), refused.value.message) == (kind, words)
