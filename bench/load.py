"""The load: an HTTP client in a process of its own, so that its CPU time is not counted as the server's.

    python -m bench.load '{"url": …, "token": …, "what": "create", …}'

prints one JSON object. Every wait is bounded; requests go to the given URL only.
"""

from __future__ import annotations

import http.client
import json
import queue
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

_TIMEOUT = 120.0
_POLL = 0.002


class Client:
    """One keep-alive connection a thread."""

    def __init__(self, url: str, token: str) -> None:
        self._host = urllib.parse.urlsplit(url).netloc
        self._headers = {
            "X-Auth-Token": token,
            "OpenStack-API-Version": "compute 2.90",
            "Content-Type": "application/json",
        }
        self._local = threading.local()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPConnection(self._host, timeout=_TIMEOUT)
        connection = self._local.connection
        connection.request(method, path, None if body is None else json.dumps(body), self._headers)
        answer = connection.getresponse()
        raw = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {raw[:300]!r}")
        return json.loads(raw) if raw else None


def create(client: Client, image: str, flavor: str, count: int, threads: int, **more: Any) -> dict[str, Any]:
    """``count`` servers by so many threads; wall time from the first POST until all are ACTIVE."""
    posts: list[float] = []

    def post(number: int) -> str:
        began = time.perf_counter()
        server = client.ask("POST", "/compute/v2.1/servers", _server(image, flavor, f"load-{number}", more))
        posts.append(time.perf_counter() - began)
        return str(server["server"]["id"])

    began = time.perf_counter()
    ids = _each(threads, range(count), post)
    _wait_none(client, "BUILD")
    wall = time.perf_counter() - began
    active = len(client.ask("GET", "/compute/v2.1/servers?status=ACTIVE&limit=1000")["servers"])
    return {"ids": ids, "wall": wall, "active": active, "post": posts}


def sequential(client: Client, image: str, flavor: str, count: int, **more: Any) -> dict[str, Any]:
    """One at a time: POST's own time, and from before the POST until GET shows ACTIVE and running."""
    posts, actives, ids = [], [], []
    for number in range(count):
        began = time.perf_counter()
        body = _server(image, flavor, f"one-{number}", more)
        server_id = client.ask("POST", "/compute/v2.1/servers", body)["server"]["id"]
        posts.append(time.perf_counter() - began)
        ids.append(server_id)
        while time.perf_counter() - began < _TIMEOUT:
            server = client.ask("GET", f"/compute/v2.1/servers/{server_id}")["server"]
            if server["status"] == "ERROR":
                raise RuntimeError(str(server["fault"]))
            if server["status"] == "ACTIVE" and server["OS-EXT-STS:power_state"] == 1:
                break
            time.sleep(_POLL)
        actives.append(time.perf_counter() - began)
    return {"ids": ids, "post": posts, "active": actives}


def delete(client: Client, ids: list[str], threads: int) -> dict[str, Any]:
    began = time.perf_counter()
    _each(threads, ids, lambda server_id: client.ask("DELETE", f"/compute/v2.1/servers/{server_id}"))
    _wait_none(client, None)
    return {"wall": time.perf_counter() - began}


def read(client: Client, path: str, count: int) -> dict[str, Any]:
    """The same GET again and again on one connection."""
    times = []
    for _ in range(count + 2):
        began = time.perf_counter()
        client.ask("GET", path)
        times.append(time.perf_counter() - began)
    return {"times": times[2:]}


def _server(image: str, flavor: str, name: str, more: dict[str, Any]) -> Any:
    return {"server": {"name": name, "imageRef": image, "flavorRef": flavor, "networks": "none", **more}}


def _wait_none(client: Client, status: str | None) -> None:
    """Until no server (in that status) is listed; a list at most a tenth of the time."""
    query = f"?limit=1&status={status}" if status else "?limit=1"
    end = time.perf_counter() + _TIMEOUT
    while time.perf_counter() < end:
        began = time.perf_counter()
        if not client.ask("GET", f"/compute/v2.1/servers{query}")["servers"]:
            return
        time.sleep(max(0.02, 9 * (time.perf_counter() - began)))
    raise RuntimeError(f"servers still in {status} after {_TIMEOUT} s")


def _each(threads: int, items: Iterable[Any], work: Callable[[Any], Any]) -> list[Any]:
    """``work`` on every item by so many threads; the first error is raised."""
    todo: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for item in items:
        todo.put(item)
    done: list[Any] = []
    failed: list[Exception] = []

    def run() -> None:
        while not failed:
            try:
                item = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.append(work(item))
            except Exception as error:  # noqa: BLE001 - raised by the caller's thread
                failed.append(error)

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failed:
        raise failed[0]
    return done


def p50(times: list[float]) -> float:
    """The median in milliseconds."""
    return median(times) * 1000


def main() -> None:
    order = json.loads(sys.argv[1])
    client = Client(order.pop("url"), order.pop("token"))
    work = {"create": create, "sequential": sequential, "delete": delete, "read": read}[order.pop("what")]
    print(json.dumps(work(client, **order)))


if __name__ == "__main__":
    main()
