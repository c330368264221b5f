"""os-interface, os-server-external-events and os-server-password against Nova's own schemas.

Needs KILONOVA_NOVA_PYTHON, as tests/functional/compute/test_nova_schemas.py does.
"""

from __future__ import annotations

from typing import Any

import pytest
from tests.functional.builds.cloud import Cloud
from tests.functional.builds.conftest import MakeCloud
from tests.functional.builds.test_server_volumes import Volumes
from tests.functional.compute.test_nova_schemas import NOVA, judged

pytestmark = pytest.mark.skipif(not NOVA, reason="KILONOVA_NOVA_PYTHON names no Python with nova")

MINORS = (1, 43, 44, 48, 49, 50, 51, 69, 70, 75, 76, 81, 82, 92, 93, 101, 102, 104)


def test_what_they_take_and_answer(make_cloud: MakeCloud) -> None:
    cloud = make_cloud()
    network = cloud.make_network()
    server_id = cloud.active(network)
    exchanges: list[dict[str, Any]] = []
    for minor in MINORS:
        _exchange(cloud, server_id, network, f"2.{minor}", exchanges)
    assert sum(exchange["status"] < 400 for exchange in exchanges) > 8 * len(MINORS)
    assert judged(exchanges) == []


def _exchange(cloud: Cloud, server_id: str, network: str, version: str, exchanges: list[Any]) -> None:
    def ask(method: str, path: str, body: Any = None) -> Any:
        headers = {"OpenStack-API-Version": f"compute {version}"}
        status, answer = cloud.ask(method, f"/compute/v2.1{path}", body, "admin", headers)
        exchanges.append(
            {
                "method": method,
                "path": path,
                "version": version,
                "request": body,
                # Nova changes it to that while it answers; its declaration says 200.
                "status": 200 if status == 207 else status,
                "response": answer,
            }
        )
        return answer

    server = f"/servers/{server_id}"
    made = ask("POST", f"{server}/os-interface", {"interfaceAttachment": {"net_id": network}})
    port = made["interfaceAttachment"]["port_id"]
    tagged = {"net_id": network, "tag": f"t{version}"}
    ask("POST", f"{server}/os-interface", {"interfaceAttachment": tagged})
    for path in (f"{server}/os-interface", f"{server}/os-interface/{port}", f"{server}/os-server-password"):
        ask("GET", path)
    ask("POST", f"{server}/os-interface", {"interfaceAttachment": {"port_id": port}})
    ask("POST", f"{server}/action", {"addFixedIp": {"networkId": network}})
    ask("DELETE", f"{server}/os-interface/{port}")
    cloud.settled(server_id)
    ask("DELETE", f"{server}/os-server-password")
    names = (
        "network-changed",
        "network-vif-plugged",
        "network-vif-deleted",
        "power-update",
        "volume-extended",
    )
    for name in names:
        ask("POST", "/os-server-external-events", {"events": [{"name": name, "server_uuid": server_id}]})
    event = {"name": "network-changed", "server_uuid": server_id, "status": "completed", "tag": port}
    ask("POST", "/os-server-external-events", {"events": [event]})


VOLUME_MINORS = (1, 48, 49, 69, 70, 74, 75, 78, 79, 84, 85, 88, 89, 100, 101, 102, 104)


def test_what_volume_attachments_take_and_answer(make_cloud: MakeCloud) -> None:
    cloud = make_cloud()
    volumes = Volumes(cloud)
    server_id, first, second = cloud.active(), volumes.make(), volumes.make()
    exchanges: list[dict[str, Any]] = []
    for minor in VOLUME_MINORS:
        _exchange_volumes(cloud, server_id, first, second, f"2.{minor}", exchanges)
    assert sum(exchange["status"] < 400 for exchange in exchanges) > 5 * len(VOLUME_MINORS)
    assert judged(exchanges) == []


def _exchange_volumes(
    cloud: Cloud, server_id: str, first: str, second: str, version: str, exchanges: list[Any]
) -> None:
    def ask(method: str, path: str, body: Any = None) -> None:
        headers = {"OpenStack-API-Version": f"compute {version}"}
        status, answer = cloud.ask(method, f"/compute/v2.1{path}", body, "admin", headers)
        told = {"method": method, "path": path.partition("?")[0], "version": version, "request": body}
        if (method, status) == ("POST", 202):  # since 2.101; Nova's declaration says 200
            status = 200
        exchanges.append(told | {"status": status, "response": answer})
        cloud.settled(server_id)

    every = f"/servers/{server_id}/os-volume_attachments"
    one = f"{every}/{first}"
    ask("POST", every, {"volumeAttachment": {"volumeId": first, "device": "/dev/vdx"}})
    ask("POST", every, {"volumeAttachment": {"volumeId": first, "tag": "t"}})
    ask("POST", every, {"volumeAttachment": {"volumeId": second, "delete_on_termination": True}})
    for path in (every, f"{every}?limit=1&offset=0", f"{every}?nonsense=1", one, f"{one}?nonsense=1"):
        ask("GET", path)
    ask("PUT", one, {"volumeAttachment": {"volumeId": first, "delete_on_termination": False}})
    ask("DELETE", one)
    ask("DELETE", f"{every}/{second}")
    ask("DELETE", one)
