"""What is counted and timed, for Prometheus. A metric is declared beside what it tells of:

    _calls = metrics.Histogram("bus_call_seconds", "Calls over the bus.", ("topic", "method"))
    _calls.observe(seconds, topic, method)

Until somebody wants to read them (``enable``), metrics count nothing, cost next to nothing, and their library
is not loaded. A label's values are few and known before: methods, kinds, states; never an id or a name.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

PREFIX = "kilonova_"

FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Bounds in seconds of what should take milliseconds."""
SLOW = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""… and of what may take minutes."""

_lock = threading.Lock()
_declared: list[_Metric] = []
_registry: CollectorRegistry | None = None


class _Metric:
    """``real`` is the library's, once there is one."""

    kind = ""

    def __init__(self, name: str, text: str, labels: Sequence[str] = (), **more: Any) -> None:
        self._arguments = (PREFIX + name, text, labels)
        self._more = more
        self._real: Any = None
        with _lock:
            _declared.append(self)
            if _registry is not None:
                self.make(_registry)

    def make(self, registry: CollectorRegistry) -> None:
        import prometheus_client

        self._real = getattr(prometheus_client, self.kind)(*self._arguments, registry=registry, **self._more)


class Counter(_Metric):
    """How often; Prometheus shows it with ``_total`` behind its name."""

    kind = "Counter"

    def add(self, *labels: str, amount: int = 1) -> None:
        if self._real is not None:
            (self._real.labels(*labels) if labels else self._real).inc(amount)


class Histogram(_Metric):
    """How long: seconds, counted by the bounds that they do not pass."""

    kind = "Histogram"

    def __init__(
        self, name: str, text: str, labels: Sequence[str] = (), bounds: Sequence[float] = FAST
    ) -> None:
        super().__init__(name, text, labels, buckets=bounds)

    def observe(self, seconds: float, *labels: str) -> None:
        if self._real is not None:
            (self._real.labels(*labels) if labels else self._real).observe(seconds)


def enable() -> CollectorRegistry:
    """Count from now on; the same registry whenever it is called."""
    global _registry  # noqa: PLW0603 - one a process, as its log is
    from prometheus_client import CollectorRegistry, disable_created_metrics

    with _lock:
        if _registry is None:
            disable_created_metrics()  # type: ignore[no-untyped-call]
            _registry = CollectorRegistry(auto_describe=False)
            for metric in _declared:
                metric.make(_registry)
        return _registry


Values = Mapping[tuple[str, ...], float]
"""The labels' values → the number."""


def family(name: str, text: str, labels: Sequence[str], values: Values) -> Any:
    """Numbers that are read when they are asked for, as the library's collectors give them."""
    from prometheus_client.core import GaugeMetricFamily

    found = GaugeMetricFamily(PREFIX + name, text, labels=list(labels))
    for told, value in values.items():
        found.add_metric(told, value)
    return found


def names() -> Iterable[str]:
    """Of all that is declared in what was imported so far."""
    return [metric._arguments[0] for metric in _declared]
