"""What RabbitMQ must know: its users, and what each may do. As definitions that it imports.

A host's user is named ``compute.HOST``. It reaches the queues of its own host and speaks to the conductor;
nothing else, whatever runs on that host (see bus.rabbit.trust for what a conductor believes of it).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
from typing import Any

from kilonova.cli.cluster import machine

VHOST = "kilonova"
EXCHANGE = "kilonova"
QUEUE_BYTES = 64 << 20
"""The most that waits in one queue; then the oldest goes, as if lost. A host may send to any queue."""


def control_plane(user: str, password: str, vhost: str = VHOST) -> dict[str, Any]:
    """The virtual host with the exchange, which hosts may not make, the bounds of its queues, and the user of
    api, conductor and scheduler, who may do everything there."""
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    exchange = {"name": EXCHANGE, "vhost": vhost, "type": "topic", "durable": True, "auto_delete": False}
    policy = {
        "name": EXCHANGE,
        "vhost": vhost,
        "pattern": rf"^{EXCHANGE}\.",
        "apply-to": "queues",
        "definition": {"max-length-bytes": QUEUE_BYTES},
        "priority": 0,
    }
    return {
        "vhosts": [{"name": vhost}],
        "policies": [policy],
        "exchanges": [{**exchange, "internal": False, "arguments": {}}],
        "users": [_user(user, password)],
        "permissions": [{"user": user, "vhost": vhost, **everything}],
    }


def host_user(host: str) -> str:
    return f"compute.{host}"


def host(name: str, password: str, vhost: str = VHOST) -> dict[str, Any]:
    """The user of that host's agent."""
    user, escaped = host_user(name), re.escape(name)
    own = rf"^{EXCHANGE}\.((call|build)\.)?compute\.{escaped}$"
    own_or_exchange = rf"{own}|^{EXCHANGE}$"
    permissions = {
        "configure": own,
        "write": rf"{own_or_exchange}|^amq\.default$",
        "read": own_or_exchange,
    }
    topics = {"write": r"^(call\.)?conductor$", "read": rf"^((call|build)\.)?compute\.{escaped}$"}
    return {
        "users": [_user(user, password)],
        "permissions": [{"user": user, "vhost": vhost, **permissions}],
        "topic_permissions": [{"user": user, "vhost": vhost, "exchange": EXCHANGE, **topics}],
    }


def _user(name: str, password: str) -> dict[str, Any]:
    """With RabbitMQ's hash of the password: four bytes of salt, then SHA-256 of salt and password."""
    salt = secrets.token_bytes(4)
    digest = base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
    return {
        "name": name,
        "password_hash": digest,
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": "",
    }


def merged(*parts: dict[str, Any]) -> dict[str, Any]:
    """Several as one."""
    whole: dict[str, Any] = {}
    for part in parts:
        for kind, entries in part.items():
            whole.setdefault(kind, []).extend(entries)
    return whole


def tell(definitions: dict[str, Any]) -> None:
    """The broker of this machine knows these from now on. ClickException: it does not run."""
    machine.run(
        "rabbitmqctl",
        "--quiet",
        "import_definitions",
        "--format",
        "json",
        told=json.dumps(definitions),
        needs="rabbitmq-server",
    )


def disconnect(user: str) -> None:
    """Whoever is connected as that user must log in again: a new password is asked for there alone."""
    reason = "new credentials"
    machine.run("rabbitmqctl", "--quiet", "close_all_user_connections", user, reason, needs="rabbitmq-server")
