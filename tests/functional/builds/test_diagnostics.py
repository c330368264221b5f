"""GET /servers/{id}/diagnostics: the host of a guest that runs is asked, for admins."""

from __future__ import annotations

from typing import Any

import pytest
from tests.functional.builds.cloud import Cloud

from kilonova.domain.diagnostics import CpuUse, Diagnostics, DiskUse, NicUse

TOLD = Diagnostics(
    driver="libvirt",
    hypervisor="qemu",
    hypervisor_os="linux",
    memory_maximum=131072,
    memory_used=65536,
    cpus=[CpuUse(id=0, time=17)],
    nics=[NicUse(device="tap1", mac="fa:16:3e:00:00:01", rx_octets=1, rx_packets=2, tx_octets=5)],
    disks=[DiskUse(device="vda", read_bytes=1, read_requests=2, write_bytes=3, write_requests=4)],
)


@pytest.fixture
def ask(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(cloud.hosts["h1"].driver, "diagnostics", lambda _: TOLD)

    def asked(server_id: str, version: str = "2.48", caller: str = "admin") -> Any:
        headers = {"OpenStack-API-Version": f"compute {version}"}
        path = f"/compute/v2.1/servers/{server_id}/diagnostics"
        return cloud.ask("GET", path, caller=caller, headers=headers)

    return asked


def test_in_the_words_of_all_hypervisors(cloud: Cloud, ask: Any) -> None:
    status, said = ask(cloud.active(config_drive=True))
    uptime = said.pop("uptime")
    assert (status, 0 <= uptime < 600) == (200, True)
    unknown = dict.fromkeys(
        ("rx_errors", "rx_drop", "rx_rate", "tx_packets", "tx_errors", "tx_drop", "tx_rate")
    )
    assert said == {
        "state": "running",
        "driver": "libvirt",
        "hypervisor": "qemu",
        "hypervisor_os": "linux",
        "config_drive": True,
        "num_cpus": 1,
        "num_nics": 1,
        "num_disks": 1,
        "memory_details": {"maximum": 128, "used": 64},
        "cpu_details": [{"id": 0, "time": 17, "utilisation": None}],
        "nic_details": [
            {"mac_address": "fa:16:3e:00:00:01", "rx_octets": 1, "rx_packets": 2, "tx_octets": 5, **unknown}
        ],
        "disk_details": [
            {
                "read_bytes": 1,
                "read_requests": 2,
                "write_bytes": 3,
                "write_requests": 4,
                "errors_count": None,
            }
        ],
    }


def test_in_the_words_of_libvirt(cloud: Cloud, ask: Any) -> None:
    assert ask(cloud.active(), "2.47") == (
        200,
        {
            "cpu0_time": 17,
            "vda_read": 1,
            "vda_read_req": 2,
            "vda_write": 3,
            "vda_write_req": 4,
            "tap1_rx": 1,
            "tap1_rx_packets": 2,
            "tap1_tx": 5,
            "memory": 131072,
            "memory-actual": 65536,
        },
    )


def test_who_may_ask_and_when(cloud: Cloud, ask: Any) -> None:
    server_id = cloud.active()
    assert ask(server_id, caller="member")[0] == 403
    assert ask("none")[0] == 404
    assert cloud.act(server_id, "os-stop") == 202
    cloud.settled(server_id)
    assert ask(server_id)[0] == 409
    assert cloud.act(server_id, "shelve") == 202
    cloud.settled(server_id)
    assert ask(server_id)[0] == 409


def test_the_fake_driver_tells_what_it_has(cloud: Cloud) -> None:
    server_id = cloud.active(cloud.make_network())
    status, said = cloud.ask("GET", f"/compute/v2.1/servers/{server_id}/diagnostics", caller="admin")
    assert (status, said["driver"], said["num_nics"]) == (200, "fake", 1)
