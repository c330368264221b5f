"""``kilonova doctor``, on this machine and on one that lacks everything."""

import json
import socket
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.ceph import USER, Ceph

from kilonova.cli import doctor as module
from kilonova.cli.doctor import CHECKS, Check, doctor, places
from kilonova.virt.libvirt import needs
from kilonova.virt.libvirt.needs import Lacking


def findings(*arguments: str) -> dict[str, dict[str, str]]:
    result = CliRunner().invoke(doctor, ["--json", *arguments])
    return {finding["check"]: finding for finding in json.loads(result.output)}


@pytest.fixture
def no_kvm_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe has its own tests, and takes seconds where KVM hangs."""

    def lacking(_: object) -> str:
        raise Lacking("not tried")

    checks = tuple(check._replace(look=lacking) if check.name == "KVM" else check for check in CHECKS)
    monkeypatch.setattr(module, "CHECKS", checks)


@pytest.fixture
def no_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(needs.shutil, "which", lambda _name, path: None)  # /usr/sbin too


@pytest.mark.usefixtures("no_kvm_probe", "no_programs")
def test_what_is_missing_comes_with_the_command_that_gets_it() -> None:
    found = findings()
    assert found["QEMU"]["state"] == "missing"
    assert found["QEMU"]["found"] == "no qemu-system-x86_64"
    assert "qemu-system-x86" in found["QEMU"]["command"]
    result = CliRunner().invoke(doctor, [])
    assert result.exit_code == 1
    (command,) = [line for line in result.output.splitlines() if "qemu-utils" in line]
    assert command.startswith("  apt-get install --no-install-recommends ")
    assert "dnsmasq-base" in command
    assert command.split().count("util-linux") == 1


@pytest.mark.usefixtures("no_kvm_probe", "no_programs")
def test_a_start_that_fails_and_the_doctor_say_the_same() -> None:
    found = findings()
    for need in needs.NEEDS:
        assert found[need.name]["command"] in ("", need.command)
    assert needs.missing()
    for line in needs.missing():
        name = line.partition(" is missing")[0]
        assert line == f"{name} is missing ({found[name]['found']}): {found[name]['command']}"
    assert found["prlimit"]["state"] == "missing"


def test_what_is_only_lesser_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(_: object) -> str:
        raise Lacking("hangs")

    check = Check("KVM", slow, "slower", "", needed=False)
    monkeypatch.setattr(module, "CHECKS", (check,))
    result = CliRunner().invoke(doctor, [])
    assert result.exit_code == 0
    assert "lesser" in result.output


@pytest.mark.usefixtures("no_kvm_probe", "no_programs")
def test_a_port_in_use_and_a_state_folder_that_cannot_be(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = findings("--port", str(port), "--state", str(file / "state"))
    assert found["port"]["state"] == "missing"
    assert found["state folder"]["state"] == "missing"
    found = findings("--state", str(tmp_path / "new" / "state"))
    assert found["state folder"]["state"] == "ok"
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("no_kvm_probe", "no_programs")
def test_a_state_folder_that_qemus_user_cannot_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "QEMU_USER", "nobody")
    name = "QEMU's user (libvirt-qemu) reaches the state folder"
    assert findings("--state", "/srv/kilonova/state")[name]["state"] == "ok"
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    found = findings("--state", str(home / "state"))[name]
    assert found["state"] == "lesser"
    assert "is closed for it" in found["found"]
    assert "/var/lib/kilonova" in found["meaning"]
    assert name not in findings()


@pytest.mark.usefixtures("no_kvm_probe", "no_programs")
def test_nothing_is_said_of_what_was_not_asked() -> None:
    assert not {"port", "state folder"} & findings().keys()


@pytest.mark.system
@pytest.mark.usefixtures("no_kvm_probe")
def test_this_machine_has_all_that_the_system_tests_need() -> None:
    lacking = [name for name, finding in findings().items() if finding["state"] == "missing"]
    assert lacking == []


@pytest.mark.usefixtures("no_kvm_probe")
def test_ceph_is_looked_for_where_it_is_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "kilonova.toml"
    config.write_text('[volume.backends.ceph]\ndriver = "rbd"\n')
    monkeypatch.setitem(sys.modules, "rbd", None)
    found = findings("--config", str(config))["Ceph's Python bindings"]
    assert found["state"] == "missing"
    assert "no module rbd" in found["found"]
    assert "Ceph's Python bindings" not in findings()


@pytest.mark.usefixtures("no_kvm_probe")
def test_guests_disks_in_ceph_are_looked_for(tmp_path: Path, ceph: Ceph) -> None:
    config = tmp_path / "kilonova.toml"
    options = f'[libvirt]\nimages_type = "rbd"\nrbd_user = "{USER}"\nimages_rbd_ceph_conf = "{ceph.conf}"\n'
    config.write_text(options)
    found = findings("--config", str(config))
    assert found["guests' disks in Ceph"]["state"] == "ok"
    assert found["guests' disks in Ceph"]["found"].startswith("pool vms: ")
    for wrong, says in (('images_rbd_pool = "none"', "no pool none"), ('rbd_user = "x"', "no key of Ceph's")):
        name = wrong.partition(" ")[0]
        lines = [line for line in options.splitlines() if not line.startswith(name)]
        config.write_text("\n".join([*lines, wrong]))
        lacking = findings("--config", str(config))["guests' disks in Ceph"]
        assert (lacking["state"], says in lacking["found"]) == ("missing", True), lacking


@pytest.mark.usefixtures("no_kvm_probe", "no_programs")
def test_what_reaches_volumes_comes_with_the_command_that_gets_it(tmp_path: Path) -> None:
    assert "tgtd" not in findings()
    config = tmp_path / "iscsi.toml"
    config.write_text(
        '[volume.backends.disks]\ndriver = "iscsi"\ntarget_ip_address = "127.0.0.1"\n'
        f'tgt_socket = "{tmp_path}/socket.0"\n'
    )
    found = findings("--config", str(config))
    assert found["tgtd"]["state"] == "missing"
    assert f"tgtd does not answer at {tmp_path}/socket.0" in found["tgtd"]["found"]
    assert found["tgtd"]["command"].endswith(" tgt")
    qemu = found["QEMU's drivers of Ceph and iSCSI"]
    assert qemu["state"] == "lesser"
    assert qemu["command"].endswith(" qemu-block-extra")


@pytest.mark.usefixtures("no_kvm_probe")
def test_this_machine_reaches_volumes() -> None:
    assert findings()["QEMU's drivers of Ceph and iSCSI"]["found"] == "rbd, iscsi"
