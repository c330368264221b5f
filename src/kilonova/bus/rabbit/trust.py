"""Who may say what, by the user that the broker has checked (RabbitMQ's validated ``user_id``).

A broker user named ``compute.<host>`` belongs to the agent of that host: it may speak to the conductor alone,
and for its own host alone. Every other user belongs to the control plane.
"""

from __future__ import annotations

from typing import Any

from kilonova.domain.errors import Forbidden

_HOST_USER = "compute."


def check(sender: str, topic: str, argument: Any) -> None:
    """Forbidden if that user may not send this to that topic."""
    if not sender.startswith(_HOST_USER):
        return
    host = sender.removeprefix(_HOST_USER)
    if topic != "conductor" or getattr(argument, "host", None) != host:
        raise Forbidden(f"{sender} may speak to the conductor alone, and for {host} alone")
