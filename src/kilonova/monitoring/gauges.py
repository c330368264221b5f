"""Numbers that are read when Prometheus asks: one cheap look at each, never a scan of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kilonova import __version__, log, metrics
from kilonova.monitoring.page import Page
from kilonova.monitoring.question import Question

_PATIENCE = 2.0
_log = log.get("monitoring")


class Gauges:
    """All that this process can be asked. A number that cannot be had in time is left out."""

    def __init__(self, service: str) -> None:
        from prometheus_client import ProcessCollector

        self._asked: list[tuple[str, str, Sequence[str], Question[metrics.Values]]] = []
        self._service = service
        self._registry = metrics.enable()
        ProcessCollector(registry=self._registry)
        self._registry.register(self)

    def add(self, name: str, text: str, labels: Sequence[str], read: Callable[[], metrics.Values]) -> None:
        self._asked.append((name, text, labels, Question(read)))

    def collect(self) -> Iterator[Any]:
        labels = ("service", "version")
        yield metrics.family("info", "What runs here.", labels, {(self._service, __version__): 1})
        for name, text, labels_of_it, question in list(self._asked):
            try:
                values = question.answer(_PATIENCE)
            except Exception as error:  # noqa: BLE001 - the other numbers are worth having
                _log.warning("number_not_read", name=name, error=str(error))
                continue
            yield metrics.family(name, text, labels_of_it, values)

    def page(self) -> Page:
        """All metrics, in Prometheus' text format."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return Page(200, CONTENT_TYPE_LATEST, generate_latest(self._registry))
