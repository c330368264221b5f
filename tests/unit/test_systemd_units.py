"""The units in packaging/: systemd understands them, and they start what there is."""

from __future__ import annotations

import shutil
import subprocess
from configparser import RawConfigParser
from pathlib import Path

import click
import pytest

from kilonova.cli import main

FOLDER = Path(__file__).resolve().parents[2] / "packaging/systemd"
SERVICES = sorted(path.name for path in FOLDER.glob("*.service"))
OURS = sorted(set(SERVICES) - {"kilonova-tgt.service"})
WITH_GUESTS = ("kilonova-compute.service", "kilonova-up.service")
MOUNTS_OF_ITS_OWN = {
    *(
        "ProtectSystem",
        "ProtectHome",
        "PrivateTmp",
        "PrivateDevices",
        "PrivateMounts",
        "ProtectProc",
        "ProcSubset",
    ),
    *("ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups"),
    *(
        "ReadOnlyPaths",
        "ReadWritePaths",
        "InaccessiblePaths",
        "TemporaryFileSystem",
        "BindPaths",
        "RootDirectory",
    ),
    *("DynamicUser", "RuntimeDirectory", "PrivateNetwork", "ProtectHostname", "RestrictNamespaces"),
}
"""Options by which a service would not see the network namespaces of its last run, or could make none."""
CLOSES_DEVICES = {"DevicePolicy", "DeviceAllow", "ProtectClock"}


def read(name: str) -> RawConfigParser:
    parser = RawConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((FOLDER / name).read_text())
    return parser


@pytest.mark.parametrize("name", OURS)
def test_what_it_starts_exists_and_takes_these_options(name: str) -> None:
    program, command, *arguments = read(name)["Service"]["ExecStart"].split()
    assert program == "kilonova"
    context = click.Context(main)
    found = main.get_command(context, command)
    assert found is not None
    known = {option for parameter in found.params for option in parameter.opts}
    assert {word for word in arguments if word.startswith("--")} <= known


@pytest.mark.parametrize("name", SERVICES)
def test_it_says_when_it_serves_and_comes_back(name: str) -> None:
    service = read(name)["Service"]
    assert (service["Type"], service["Restart"]) == ("notify", "always")


@pytest.mark.parametrize("name", WITH_GUESTS)
def test_guests_outlive_it(name: str) -> None:
    service = read(name)["Service"]
    assert (service["KillMode"], service["OOMPolicy"]) == ("process", "continue")
    assert set(service) & (MOUNTS_OF_ITS_OWN | CLOSES_DEVICES) == set()


@pytest.mark.parametrize("name", sorted(set(SERVICES) - set(WITH_GUESTS)))
def test_the_control_plane_is_no_root_and_reads_only_its_own(name: str) -> None:
    service = read(name)["Service"]
    assert (service["User"], service["CapabilityBoundingSet"]) == ("kilonova", "")
    assert service["ProtectSystem"] == "strict"
    assert not any("compute.toml" in value for value in service.values())


def test_who_serves_volumes_may_do_what_their_manager_may() -> None:
    """Its files are the manager's; nobody else may tell it what to serve."""
    tgt, volume = read("kilonova-tgt.service")["Service"], read("kilonova-volume.service")["Service"]
    for option in ("User", "Group", "UMask", "StateDirectory", "StateDirectoryMode"):
        assert tgt[option] == volume[option]
    assert tgt["RuntimeDirectoryMode"] == "0700"
    folder = tgt["RuntimeDirectory"]
    assert tgt["Environment"] == f"TGT_IPC_SOCKET=/run/{folder}/socket"
    assert (
        f'"/run/{folder}/socket.0"'
        in (FOLDER.parents[1] / "docs/how-to/choose-a-volume-backend.md").read_text()
    )
    assert "kilonova-tgt.service" in read("kilonova-volume.service")["Unit"]["After"].split()


def test_systemd_understands_them(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    for path in FOLDER.glob("kilonova*"):
        if path.suffix in {".service", ".socket", ".target"}:
            # Whether kilonova is in systemd's path is not asked here.
            (tmp_path / path.name).write_text(path.read_text().replace("=kilonova ", "=/bin/true "))
    units = [str(path) for path in tmp_path.iterdir()]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "kilonova" in line]
    assert (done.returncode, ours) == (0, []), done.stderr


@pytest.mark.parametrize(
    "name", ["kilonova-api", "kilonova-conductor", "kilonova-scheduler", "kilonova-volume"]
)
def test_it_may_take_its_time_to_change_the_schema(name: str) -> None:
    path = next(path for path in FOLDER.glob(f"{name}.service"))
    assert "TimeoutStartSec=10min" in path.read_text().splitlines()


def test_all_in_one_process_runs_beside_no_other() -> None:
    lines = (FOLDER / "kilonova-up.service").read_text().splitlines()
    named = {unit for line in lines if line.startswith("Conflicts=") for unit in line[10:].split()}
    assert named == {*OURS, "kilonova-api.socket"} - {"kilonova-up.service"}
