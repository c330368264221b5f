"""A small HTTP server for those who watch this process: GET of some pages, on an address of its own.

It is apart from the API's, so that what is counted is not everybody's to read, and a process without an API
has one too. It speaks to the operator's own programs: no TLS, no authentication; bind it to loopback or to a
network that is not the users'.
"""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from kilonova.domain.errors import BadRequest
from kilonova.monitoring.page import Page, Pages

_READ_TIMEOUT = 5.0


class Listener:
    """Answers from its making on. BadRequest: that address cannot be had."""

    def __init__(self, address: str, port: int, pages: Pages) -> None:
        try:
            self._server = _Server(address, port, pages)
        except OSError as error:
            raise BadRequest(f"[monitoring] listen: {address}:{port}: {error.strerror}") from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="monitoring", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        address, port = self._server.server_address[:2]
        host = str(address)
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: str, port: int, pages: Pages) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.pages = pages
        super().__init__((address, port), _Handler)

    def server_bind(self) -> None:
        """Without the look at DNS that HTTPServer's makes."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is none of our business."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _READ_TIMEOUT
    server_version = "kilonova"
    sys_version = ""

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path.partition("?")[0])
        status, content_type, body = page() if page else Page(404, "text/plain", b"no such page\n")
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Watchers ask every few seconds: no line for each."""
