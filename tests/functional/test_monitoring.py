"""/healthz, /readyz and /metrics of `kilonova up` and of services apart; one request through all logs."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.rabbit import Rabbit
from tests.running import Up, until
from tests.services import Services

ALL = ("api", "conductor", "scheduler", "compute")


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def numbers(text: str) -> dict[str, float]:
    """Series → value, as Prometheus reads it."""
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {series: float(value) for series, _, value in lines}


def monitoring(said: str) -> str:
    found = re.search(r"monitoring: (\S+)", said)
    assert found is not None, said
    return found[1]


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    made = Up(tmp_path / "state")
    yield made
    made.kill()


@pytest.fixture
def services(tmp_path: Path, rabbit: Rabbit) -> Iterator[Services]:
    made = Services(
        tmp_path / "state",
        rabbit.url,
        f"kilonova-{uuid.uuid4()}",
        '[monitoring]\nlisten = "127.0.0.1:0"\n',
    )
    yield made
    made.close()


def test_up(up: Up) -> None:
    up.start('[monitoring]\nlisten = "127.0.0.1:0"\n[quota]\nram = -1\n')
    own = monitoring(up.said)
    for url in (up.url, own):
        assert get(f"{url}/healthz") == (200, '{"service":"up","alive":true}')
        status, text = get(f"{url}/readyz")
        assert status == 200
        assert json.loads(text)["parts"] == {"database": "up", "bus": "up", "hypervisor": "up"}
    assert get(f"{up.url}/metrics")[0] == 404
    assert get(f"{own}/metric")[0] == 404

    image = up.image(b"\0" * 512)
    server_id = up.post_server(image)[1]["server"]["id"]
    assert up.settled(server_id)["status"] == "ACTIVE"
    flavor = {"flavor": {"name": "huge", "id": "huge", "vcpus": 1, "ram": 1 << 30, "disk": 1}}
    assert up.ask("POST", "/compute/v2.1/flavors", flavor)[0] == 200
    huge = up.post_server(image, flavorRef="huge")[1]["server"]["id"]
    assert up.settled(huge)["status"] == "ERROR"
    assert up.ask("GET", "/compute/v2.1/servers/nobody")[0] == 404
    up.ask("GET", f"/no/such/{uuid.uuid4()}")
    failed = 'operation_seconds_count{kind="build",state="failed"}'
    until(lambda: failed in get(f"{own}/metrics")[1], 60, "the failed build to be counted")
    found = numbers(get(f"{own}/metrics")[1])

    def of(name: str, **labels: str) -> float:
        told = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
        return found[f"kilonova_{name}{{{told}}}"]

    route = {"service": "compute", "route": "/compute/v2.1/servers/{server_id}", "method": "GET"}
    assert of("http_requests_total", status="404", **route) == 1
    assert of("http_request_seconds_count", **route) > 1
    assert of("operation_seconds_count", kind="build", state="done") >= 1
    assert of("step_seconds_count", step="create_domain", result="Success") >= 1
    assert of("bus_call_seconds_count", topic="conductor", method="activate", outcome="ok") >= 1
    assert of("scheduler_decision_seconds_count", outcome="selected") >= 1
    assert of("scheduler_decision_seconds_count", outcome="no_valid_host") == 1
    assert of("scheduler_hosts_rejected_total", filter="RamFilter") == 1
    assert of("operation_seconds_count", kind="build", state="failed") == 1
    assert of("hosts", state="up") == 1
    assert of("database_connections", state="idle") >= 1
    assert of("info", service="up", version="0.1.0") == 1
    assert found["process_resident_memory_bytes"] > 0
    assert not [series for series in found if server_id in series or "nobody" in series]


def test_metrics_on_the_api_are_a_choice(up: Up) -> None:
    up.start("[monitoring]\nmetrics_on_api = true\n")
    assert "monitoring:" not in up.said
    status, text = get(f"{up.url}/metrics")
    assert status == 200
    assert 'kilonova_info{service="up"' in text
    assert get(f"{up.url}/healthz")[0] == 200
    assert "/healthz" not in up.log()


def test_a_request_without_a_route_is_in_the_log_too(up: Up) -> None:
    up.start()
    for method, path, status in (("GET", "/compute/v2.1/nothing", 404), ("PATCH", "/image/v2/images", 405)):
        request_id = f"req-{uuid.uuid4()}"
        assert up.ask(method, path, headers={"X-OpenStack-Request-ID": request_id})[0] == status
        (line,) = [line for line in up.log().splitlines() if request_id in line]
        assert f"method={method} " in line
        assert f"path={path} " in line
        assert f"status={status}" in line


def test_services_apart_without_their_broker(services: Services, rabbit: Rabbit) -> None:
    services.start_all()
    urls = {name: monitoring(services.said(name)) for name in ALL}
    for name, url in urls.items():
        until(lambda url=url: get(f"{url}/readyz")[0] == 200, 60, f"{name} to be ready")
        parts = json.loads(get(f"{url}/readyz")[1])["parts"]
        assert parts == {"bus": "up"} | {"hypervisor" if name == "compute" else "database": "up"}
    rabbit.kill()
    try:
        for name, url in urls.items():
            until(lambda url=url: '"bus":"down"' in get(f"{url}/readyz")[1], 60, f"{name} to see that")
            status, text = get(f"{url}/readyz")
            assert status == (200 if name == "api" else 503), text
            assert json.loads(text)["problems"]["bus"]
            assert get(f"{url}/healthz")[0] == 200
        status, text = get(f"{services.url}/readyz")
        assert (status, json.loads(text)["parts"]) == (200, {"database": "up", "bus": "down"})
        assert "problems" not in text
    finally:
        rabbit.start()
    for name, url in urls.items():
        until(lambda url=url: get(f"{url}/readyz")[0] == 200, 60, f"{name} to be ready again")
    hosts = 'kilonova_hosts{state="up"} 3.0'
    until(lambda: hosts in get(f"{urls['conductor']}/metrics")[1], 60, "the hosts to be up")


def test_one_create_in_the_logs_of_all_services(services: Services) -> None:
    services.arguments = ("--log-format", "json")
    services.start_all()
    image = services.image(b"\0" * 512)
    request_id = f"req-{uuid.uuid4()}"
    server = {"name": "vm", "imageRef": image, "flavorRef": "42", "networks": "none"}
    headers = {"X-OpenStack-Request-ID": request_id}
    status, answer = services.ask("POST", "/compute/v2.1/servers", {"server": server}, headers=headers)
    assert status == 202, answer
    server_id = answer["server"]["id"]
    services.settled(server_id)

    def events(name: str) -> list[dict[str, Any]]:
        lines = services.log(name).splitlines()
        read = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in read if line.get("request_id") == request_id]

    for name, line in (("compute", "work_done"), ("conductor", "build_handed_over")):
        until(lambda n=name, e=line: e in [one["event"] for one in events(n)], 60, line)  # type: ignore[misc]
    told = {name: {one["event"]: one for one in events(name)} for name in ALL}
    assert told["api"]["request"]["status"] == 202
    assert told["scheduler"]["host_selected"]["server"] == server_id
    assert told["conductor"]["build_handed_over"]["server"] == server_id
    assert told["conductor"]["server_active"]["server"] == server_id
    assert told["compute"]["work_done"]["server"] == server_id
    assert told["compute"]["work_done"]["host"] == told["scheduler"]["host_selected"]["host"]
