"""A real guest through four processes: its host holds no database, and fetches its image over HTTP."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.rabbit import Rabbit
from tests.running import until
from tests.services import Services
from tests.system.cloud import BOOT_SECONDS

pytestmark = pytest.mark.system

SERVICE_USER = """
[service_user]
auth_url = "{url}/identity"
username = "admin"
password = "{password}"
project_name = "admin"
"""


@pytest.fixture
def services(rabbit: Rabbit) -> Iterator[Services]:
    """In a folder with a short path that is open to pass: for libvirt's sockets, and QEMU's own user."""
    folder = Path(tempfile.mkdtemp(prefix="kilonova-"))
    folder.chmod(0o711)
    made = Services(folder / "s", rabbit.url, f"kilonova-{uuid.uuid4()}", compute=())
    yield made
    made.close()
    shutil.rmtree(folder)


def test_a_guest_boots_and_outlives_the_restart_of_every_service(
    services: Services, guest_image: Path
) -> None:
    services.start("api")
    password = (services.state / "admin-password").read_text().strip()
    with services.config.open("a") as file:
        file.write(SERVICE_USER.format(url=services.url, password=password))
    for name in ("conductor", "scheduler", "compute"):
        services.start(name)
    image = services.image(guest_image.read_bytes(), "qcow2")
    _, answer = services.post_server(image, services.network("10.177.0.0/24"))
    server_id = answer["server"]["id"]
    try:
        server = services.settled(server_id)
        assert server["status"] == "ACTIVE", server
        until(lambda: "login:" in console(services, server_id), BOOT_SECONDS, "the login prompt")
        for name in ("conductor", "scheduler", "compute"):
            services.kill(name)
            services.start(name)
        assert services.server(server_id)["status"] == "ACTIVE"
        assert "login:" in console(services, server_id)
    finally:
        services.ask("DELETE", f"/compute/v2.1/servers/{server_id}")
        until(lambda: services.server(server_id) is None, 60, "it to go")
    assert services.unexplained() == []


def console(services: Services, server_id: str) -> str:
    path = f"/compute/v2.1/servers/{server_id}/action"
    status, answer = services.ask("POST", path, {"os-getConsoleOutput": {}})
    return str(answer["output"]) if status == 200 else ""
