"""A host that wants to reach a volume, as os-brick describes it."""

from __future__ import annotations

from typing import Any

from kilonova.domain.errors import BadRequest
from kilonova.domain.volumes import Connector

ConnectorBody = dict[str, Any]


def connector_of(given: ConnectorBody) -> Connector:
    """BadRequest: it does not say which host it is, or says something that no host is."""
    texts = {"host": given.get("host"), "ip": given.get("ip"), "initiator": given.get("initiator")}
    for name, value in texts.items():
        if value is not None and (not isinstance(value, str) or len(value) > 255 or not value.isprintable()):
            raise BadRequest(f"Invalid input received: connector: {name} must be a text of at most 255.")
    if not texts["host"]:
        raise BadRequest("Invalid input received: connector: host is missing.")
    return Connector(
        host=str(texts["host"]), ip=str(texts["ip"] or ""), initiator=str(texts["initiator"] or "")
    )
