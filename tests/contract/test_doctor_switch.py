"""``kilonova doctor`` of a host whose plug is Open vSwitch: what is missing, and what is broken."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from click.testing import CliRunner
from tests.openvswitch import installed
from tests.plugs import PlugLab, host_with
from tests.system.host_network.lab import make_vif
from tests.system.host_network.test_host_routers import interface

from kilonova.cli import doctor as module
from kilonova.cli.doctor import CHECKS, doctor
from kilonova.domain.routers import HostRouters, RouterState
from kilonova.network.host import names

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="changes the host's network"),
    pytest.mark.skipif(not installed(), reason="Open vSwitch is not installed"),
]

NAMES = {check.name for check in CHECKS if "Open vSwitch" in check.name}


@pytest.fixture(autouse=True)
def only_these(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECKS", tuple(check for check in CHECKS if check.name in NAMES))


@pytest.fixture
def lab() -> Iterator[PlugLab]:
    with host_with("ovs") as (folder, switch):
        (folder / "state/hosts/h").mkdir(parents=True)
        one = PlugLab("ovs", folder / "state/hosts/h", switch)
        (folder / "doctor.toml").write_text(
            f'[network]\nplug = "ovs"\novsdb_connection = "{one.switch.connection}"\n'
        )
        yield one
        one.close()


def findings(folder: Path) -> dict[str, str]:
    """Check → what is wrong, or ok."""
    arguments = ["--json", "--state", str(folder / "state"), "--config", str(folder / "doctor.toml")]
    found = json.loads(CliRunner().invoke(doctor, arguments).output)
    return {one["check"]: "ok" if one["state"] == "ok" else one["found"] for one in found}


def test_what_is_broken_is_named(lab: PlugLab) -> None:
    folder = lab.folder.parents[2]
    assert set(findings(folder).values()) == {"ok"}
    vif = make_vif(lab.subnet, 5, lab.network_id)
    lab.host.plug(vif)
    assert findings(folder) == dict.fromkeys(NAMES, "ok")
    router = interface(lab.network_id, lab.subnet)
    lab.host.apply_routers(HostRouters(routers=[RouterState(id=str(uuid4()), interfaces=[router])]))
    assert findings(folder)["ports of Open vSwitch"] == "ok"
    link = names.router_link(router.port_id)
    lab.switch.vsctl("del-port", link)
    assert findings(folder)["ports of Open vSwitch"] == f"port {link} is missing"
    lab.host.apply_routers(HostRouters())
    lab.switch.vsctl("del-port", vif.tap)
    assert findings(folder)["ports of Open vSwitch"] == f"port {vif.tap} is missing"
    lab.switch.vsctl("del-br", "br-int")
    assert findings(folder)["ports of Open vSwitch"] == "there is no br-int"
    lab.switch.vsctl("--no-wait", "clear", "Open_vSwitch", ".", "other_config")
    said = findings(folder)["checksums of guests on Open vSwitch"]
    assert said == "left unmade, as the switch works without its kernel module"
    lab.switch.kill()
    said = findings(folder)["Open vSwitch's database"]
    assert said == f"no answer at {lab.switch.connection}"
    lab.switch.start()


def test_who_does_not_use_it_hears_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "doctor.toml").write_text('[network]\nplug = "bridge"\n')
    assert findings(tmp_path) == {}


def test_another_connection_than_a_socket_is_refused(tmp_path: Path) -> None:
    (tmp_path / "doctor.toml").write_text('[network]\novsdb_connection = "tcp:127.0.0.1:6640"\n')
    result = CliRunner().invoke(doctor, ["--config", str(tmp_path / "doctor.toml")])
    assert result.exit_code == 1
    assert "ovsdb_connection" in result.output
