"""A host's way to the images, when the image service is not as it should be."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kilonova.config import ServiceUser
from kilonova.domain.errors import Unavailable
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


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        endpoint = {"interface": "public", "region": "R", "url": self.server.url}
        body = {"token": {"catalog": [{"type": "image", "endpoints": [endpoint]}]}}
        self._say(201, json.dumps(body).encode(), **{"X-Subject-Token": "secret"})

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
