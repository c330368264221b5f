"""The unmodified ``openstack`` client gives servers NICs and addresses, and takes them."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from cheroot.wsgi import Server
from openstackclient import shell
from osc_lib.clientmanager import ClientManager
from tests.functional.builds.cloud import PATIENCE, Cloud
from tests.functional.builds.test_interfaces import Nics
from tests.running import until

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")

CLOUDS = """\
clouds:
  here:
    auth_type: admin_token
    auth: {{endpoint: "{url}", token: member}}
    compute_endpoint_override: "{url}/compute/v2.1"
    network_endpoint_override: "{url}/networking"
"""


@pytest.fixture
def openstack(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """``openstack("server", "list")``, in this process; what the client prints."""
    server = Server(("127.0.0.1", 0), cloud._client.app, numthreads=2)
    server.prepare()
    thread = threading.Thread(target=server.serve)
    thread.start()
    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)
    file = tmp_path / "clouds.yaml"
    file.write_text(CLOUDS.format(url=f"http://127.0.0.1:{server.bind_addr[1]}"))
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(file))
    monkeypatch.setenv("HOME", str(tmp_path))

    def run(*words: str, version: str = "2.95") -> str:
        for kept in ("network", "compute"):  # the first connection of a process, for good
            monkeypatch.setattr(vars(ClientManager)[kept], "_handle", None)
        with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
            status = shell.main(["--os-cloud", "here", "--os-compute-api-version", version, *words])
        assert status == 0, err.getvalue()
        return out.getvalue()

    yield run
    server.stop()
    thread.join(timeout=60)


def test_networks_ports_and_addresses_come_and_go(cloud: Cloud, openstack: Callable[..., str]) -> None:
    network = cloud.make_network()
    nics = Nics(cloud, cloud.active(network))
    (first,) = nics.listed()

    openstack("server", "add", "network", nics.id, network, "--tag", "red")
    (second,) = set(nics.listed()) - {first}
    nics.are(first, second)
    own = json.loads(openstack("port", "create", "--network", network, "own", "-f", "json"))["id"]
    openstack("server", "add", "port", nics.id, "own")
    nics.are(first, second, own)
    openstack("server", "remove", "port", nics.id, "own")
    nics.are(first, second)
    assert nics.port(own)["device_id"] == "", "a port of the user's stays"
    openstack("server", "remove", "network", nics.id, network)
    nics.are()

    openstack("server", "add", "fixed", "ip", nics.id, network, "--fixed-ip-address", "10.91.0.77")
    (third,) = nics.listed()
    nics.are(third)
    assert [one["ip_address"] for one in nics.port(third)["fixed_ips"]] == ["10.91.0.77"]
    openstack("server", "add", "fixed", "ip", nics.id, network, version="2.43")
    addresses = [one["ip_address"] for port in nics.listed() for one in nics.port(port)["fixed_ips"]]
    assert len(addresses) == 2
    openstack("server", "remove", "fixed", "ip", nics.id, "10.91.0.77", version="2.43")
    shown = cloud.server(nics.id)["addresses"]
    assert [one["addr"] for several in shown.values() for one in several] == addresses[-1:]
    host = cloud.where(nics.id)
    until(
        lambda: (
            [one.ip for vif in host.network.plugged().values() for one in vif.addresses] == addresses[-1:]
        ),
        PATIENCE,
        "the host to follow",
    )
