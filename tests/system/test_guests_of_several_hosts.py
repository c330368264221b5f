"""Real guests of one network on three hosts, each with another plug: they reach each other by VXLAN, and get
their addresses and what they should do from their own hosts, also when another host dies."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from uuid import uuid4

import pytest
from tests.far_hosts import FarHost, FarLab, far_hosts
from tests.openvswitch import installed
from tests.plugs import KINDS
from tests.running import until
from tests.system.cloud import BOOT_SECONDS
from tests.system.host_network.lab import make_vif, subnet

from kilonova.domain.network import NetworkState, NetworkTunnel, Vif
from kilonova.domain.servers import GuestMetadata

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network devices"),
    pytest.mark.skipif(not installed(), reason="Open vSwitch is not installed"),
]

MTU = 1450
SCRIPT = """#!/bin/sh
echo "mtu $(cat /sys/class/net/eth0/mtu)"
for other in {others}; do
    until ping -c 1 -W 2 -s {payload} $other > /dev/null; do sleep 1; done
    until nc -w 5 $other 22 < /dev/null | grep SSH > /dev/null; do sleep 1; done
    echo "reached $other"
done
echo "all reached"
echo "one may die"  # what shows this is always a line behind
while ping -c 1 -W 2 {dying} > /dev/null; do sleep 1; done
ip -4 addr flush dev eth0
kill -USR1 $(cat /run/udhcpc.eth0.pid)
until ip -4 -o addr show eth0 | grep -q " {own}/"; do sleep 1; done
told=http://169.254.169.254/openstack/latest/meta_data.json
until wget -q -O - $told | grep uuid > /dev/null; do sleep 1; done
echo "goes on"
"""


# --- on a host
def begin(lab: FarLab, image: Path, vif: Vif, network: NetworkTunnel, script: str) -> str:
    """Boot a guest; where its console is written to."""
    ip = vif.addresses[0].ip
    lab.known[vif.network_id, ip] = GuestMetadata(
        server_id=vif.port_id,
        name="guest",
        hostname="guest",
        project_id="p",
        user_data=script.encode(),
        vifs=[vif],
    )
    lab.host.refresh(NetworkState(tunnels={vif.network_id: network}), time.monotonic())
    lab.host.plug(vif)
    disk, console = lab.folder / "disk", lab.folder / "console"
    overlay = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(image), "-F", "qcow2", str(disk)]
    subprocess.run(overlay, check=True, timeout=30)
    lab.machine = subprocess.Popen(  # type: ignore[attr-defined]
        [
            *("qemu-system-x86_64", "-machine", "pc,accel=tcg", "-cpu", "qemu64", "-m", "128"),
            *("-nodefaults", "-display", "none", "-serial", f"file:{console}"),
            *("-drive", f"file={disk},if=virtio", "-device", "virtio-rng-pci"),
            *("-netdev", f"tap,id=nic,ifname={vif.tap},script=no,downscript=no"),
            *("-device", f"virtio-net-pci,netdev=nic,mac={vif.mac},host_mtu={vif.mtu}"),
        ],
        stdin=subprocess.DEVNULL,
    )
    return str(console)


def end(lab: FarLab) -> None:
    lab.machine.kill()  # type: ignore[attr-defined]
    lab.machine.wait(30)  # type: ignore[attr-defined]


# --- the test
def test_guests_on_hosts_with_different_plugs(guest_image: Path) -> None:
    network_id, of = str(uuid4()), subnet()
    vifs = [make_vif(of, 10 + number, network_id, mtu=MTU) for number, _ in enumerate(KINDS)]
    with far_hosts(*KINDS) as hosts:
        consoles: list[Path] = []
        alive: list[FarHost] = []

        def said(console: Path) -> str:
            return console.read_text(errors="replace") if console.exists() else ""

        try:
            for host, vif in zip(hosts, vifs, strict=True):
                peers = sorted(other.address for other in hosts if other is not host)
                others = [other.addresses[0].ip for other in vifs if other is not vif]
                own, dying = vif.addresses[0].ip, vifs[0].addresses[0].ip
                script = SCRIPT.format(others=" ".join(others), payload=MTU - 28, own=own, dying=dying)
                tunnel = NetworkTunnel(segmentation_id=99, peers=peers)
                consoles.append(Path(host.call(begin, guest_image, vif, tunnel, script)))
                alive.append(host)
            for console in consoles:
                until(lambda at=console: "all reached" in said(at), BOOT_SECONDS, "all guests to meet")  # type: ignore[misc]
                assert f"mtu {MTU}" in said(console)
            alive.remove(hosts[0])
            hosts[0].die()
            for console in consoles[1:]:
                until(lambda at=console: "goes on" in said(at), BOOT_SECONDS, "a lease and metadata")  # type: ignore[misc]
        except AssertionError as error:
            raise AssertionError(f"{error}; {[said(console)[-500:] for console in consoles]}") from None
        finally:
            for host in alive:
                host.call(end)
