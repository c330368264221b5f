"""What the operator of the cloud tells every guest: a JSON file, and the answers of services that are asked.

Source: https://docs.openstack.org/nova/latest/admin/vendordata.html. A service that fails, or takes too long,
leaves an empty entry and a line in the log: a guest boots without it.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kilonova import log
from kilonova.config import Api
from kilonova.domain.servers import GuestMetadata

_log = log.get("metadata")

MAX_BYTES = 1 << 18
"""Of the file, and of one service's answer."""


def static(config: Api) -> dict[str, Any]:
    """The file's object; empty without one. What is wrong with it is in the log."""
    if not config.vendordata_jsonfile_path:
        return {}
    path = Path(config.vendordata_jsonfile_path)
    try:
        with path.open("rb") as file:
            return _object(file.read(MAX_BYTES + 1))
    except (OSError, ValueError) as error:
        _log.warning("vendor_data_unread", path=str(path), error=str(error))
        return {}


def dynamic(config: Api, guest: GuestMetadata) -> dict[str, Any]:
    """Name of each target → what it says of this guest, or nothing."""
    found: dict[str, Any] = {}
    for target in config.vendordata_dynamic_targets:
        name, _, url = target.partition("@")
        try:
            found[name] = _ask(config, url, guest)
        except (OSError, ValueError, http.client.HTTPException) as error:
            _log.warning("vendor_data_not_had", target=name, server=guest.server_id, error=str(error))
            found[name] = {}
    return found


def _ask(config: Api, url: str, guest: GuestMetadata) -> dict[str, Any]:
    """POST what is known of the guest; ValueError, OSError, HTTPException: no good answer in time."""
    body = {
        "project-id": guest.project_id,
        "instance-id": guest.server_id,
        "image-id": guest.image_id,
        "user-data": guest.user_data_text,
        "hostname": guest.hostname,
        "metadata": guest.metadata,
        "boot-roles": "",
    }
    parts = urlsplit(url)
    connection = _connection(config, parts.scheme, parts.hostname or "", parts.port)
    try:
        connection.connect()
        connection.sock.settimeout(config.vendordata_dynamic_read_timeout)
        deadline = time.monotonic() + config.vendordata_dynamic_read_timeout
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        path = parts.path or "/"
        target = f"{path}?{parts.query}" if parts.query else path
        connection.request("POST", target, json.dumps(body), headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise ValueError(f"it answered {answer.status}")
        return _object(_read(answer, deadline))
    finally:
        connection.close()


def _connection(config: Api, scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
    timeout = config.vendordata_dynamic_connect_timeout
    if scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=timeout)
    context = ssl.create_default_context(cafile=config.vendordata_dynamic_ssl_certfile or None)
    return http.client.HTTPSConnection(host, port, timeout=timeout, context=context)


def _read(answer: http.client.HTTPResponse, deadline: float) -> bytes:
    """All of it, before the deadline: who sends a byte a second must not hold a guest up."""
    data = b""
    while piece := answer.read1(65536):
        data += piece
        if len(data) > MAX_BYTES:
            break
        if time.monotonic() > deadline:
            raise TimeoutError("its answer took too long")
    return data


def _object(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    if not data:
        return {}
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found
