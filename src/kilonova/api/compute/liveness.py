"""Whether a service is up: it gave a sign of life lately, and no admin said that it is down."""

from __future__ import annotations

from kilonova.config import Config
from kilonova.domain.clock import now
from kilonova.store.database import Row


def is_up(service: Row, config: Config) -> bool:
    """``service`` has ``last_seen`` and ``forced_down``."""
    return not service.forced_down and now() - service.last_seen <= config.compute.service_down_time


def state(service: Row, config: Config) -> str:
    return "up" if is_up(service, config) else "down"
