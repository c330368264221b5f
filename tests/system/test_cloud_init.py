"""Debian's cloud-init configures real guests: one from the metadata service, one from its config drive.

Both boot at the same time. Python is slow where the processor is emulated: this takes a minute or two.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.namespaces import at_home
from tests.running import until
from tests.system.cloud import Cloud, Guest, real_cloud
from tests.system.conftest import ROOT

CONFIGURED = 600.0
"""Seconds; some 40 on an idle machine."""

pytestmark = [pytest.mark.system, pytest.mark.timeout(3 * CONFIGURED)]

USER_DATA = b"#!/bin/sh\necho user data ran on $(hostname) > /run/user-data-was-here\n"


@pytest.fixture(scope="module")
def cloud_init_image() -> Path:
    path = ROOT / "build" / "cloud-init.qcow2"
    command = [sys.executable, str(ROOT / "tools" / "mkguest"), "--cloud-init", "-o", str(path)]
    made = at_home(lambda: subprocess.run(command, capture_output=True, text=True, timeout=600, check=False))
    assert made.returncode == 0, f"tools/mkguest failed: {made.stderr}"
    return path


@pytest.fixture(scope="module")
def cloud(cloud_init_image: Path) -> Iterator[Cloud]:
    with real_cloud(cloud_init_image) as cloud:
        cloud.key("k")
        yield cloud


def test_both_sources(cloud: Cloud) -> None:
    network = cloud.up.network("10.91.5.0/24")
    user_data = base64.b64encode(USER_DATA).decode()
    flavor = {"name": "small", "ram": 256, "vcpus": 1, "disk": 1}
    status, made = cloud.up.ask("POST", "/compute/v2.1/flavors", {"flavor": flavor})
    assert status == 200, made
    guests = {
        source: cloud.boot(
            name, [network], "k", config_drive=drive, user_data=user_data, flavorRef=made["flavor"]["id"]
        )
        for name, drive, source in (("served", False, "openstack"), ("driven", True, "configdrive"))
    }
    for source, guest in guests.items():
        said = partial(_said_at_its_end, guest)
        until(said, CONFIGURED, f"cloud-init of {source}", every=0.5)  # the guests need the processor
    for source, guest in guests.items():
        _is_configured(guest, source)
    cloud.delete(*guests.values())


def _said_at_its_end(guest: Guest) -> bool:
    return "cloud-init: " in guest.console()


def _is_configured(guest: Guest, source: str) -> None:
    name = guest.shown()["name"]
    try:
        assert f"hostname={name} " in guest.console()
        guest.awaits_boot()  # with the key that the cloud gave it
        assert guest.run("cat /run/user-data-was-here") == f"user data ran on {name}"
        told = json.loads(guest.run("sudo cat /run/cloud-init/instance-data.json"))
        assert told["v1"]["instance_id"] == guest.id
        assert told["v1"]["platform"] == source
        status = json.loads(guest.run("sudo cat /run/cloud-init/status.json"))["v1"]
        assert source in status["datasource"].lower(), status
        errors = {stage: one["errors"] for stage, one in status.items() if isinstance(one, dict)}
        assert not any(errors.values()), errors
    except AssertionError as error:
        raise AssertionError(f"{error}; its console ends: {guest.console()[-3000:]}") from error
