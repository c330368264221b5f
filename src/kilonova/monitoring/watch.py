"""What a process shows of itself: the three pages, and what its parts add to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import msgspec

from kilonova import metrics
from kilonova.config import Monitoring, address_and_port
from kilonova.monitoring.health import Health
from kilonova.monitoring.page import Page

_JSON = "application/json"


class Watch:
    """Of one process. Without somebody who may read metrics, none are counted."""

    def __init__(self, service: str, needs: Sequence[str], config: Monitoring) -> None:
        self.health = Health(service, needs)
        self.metrics_on_api = config.metrics_on_api
        self._service = service
        self._listen = config.listen
        self._gauges = None
        if config.listen or config.metrics_on_api:
            from kilonova.monitoring.gauges import Gauges

            self._gauges = Gauges(service)
            self.gauge("part_up", "1: what the process needs is there.", ["part"], self.health.parts_up)

    def listen(self, closing: ExitStack) -> str | None:
        """Where the pages are from now on; None: nowhere but on the API. BadRequest: that cannot be had."""
        if not self._listen:
            return None
        from kilonova.monitoring.listener import Listener

        pages = {
            "/healthz": self.alive,
            "/readyz": lambda: self.ready(reasons=True),
            "/metrics": self.metrics,
        }
        listener = Listener(*address_and_port(self._listen), pages)
        closing.callback(listener.close)
        return listener.url

    def gauge(self, name: str, text: str, labels: Sequence[str], read: Callable[[], metrics.Values]) -> None:
        if self._gauges is not None:
            self._gauges.add(name, text, labels, read)

    def alive(self) -> Page:
        """Who can answer this lives."""
        return Page(200, _JSON, msgspec.json.encode({"service": self._service, "alive": True}))

    def ready(self, *, reasons: bool) -> Page:
        """503 until all that the process needs is there, and when it stops."""
        ready, shown = self.health.report(reasons=reasons)
        return Page(200 if ready else 503, _JSON, msgspec.json.encode(shown))

    def metrics(self) -> Page:
        assert self._gauges is not None
        return self._gauges.page()
