"""os-vif plugs a port and unplugs it again, in a Python that has it and nothing of ours (plugs.py runs it).

    os_vif_plug.py ovs-hybrid|ovs CONNECTION ROUNDS

prints the seconds of each round as JSON. Its privileged parts run in this process, which is root: as a rule
they are asked over a socket, which takes longer.
"""

import json
import subprocess
import sys
import tempfile
import time
import uuid

import os_vif
from os_vif.objects import instance_info, network, vif
from oslo_config import cfg

kind, connection, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
with tempfile.NamedTemporaryFile("w", suffix=".conf") as options:
    options.write(f"[os_vif_ovs]\novsdb_connection = {connection}\nnetwork_device_mtu = 1500\n")
    options.flush()
    cfg.CONF(["--config-file", options.name], project="bench")
os_vif.initialize()
from vif_plug_ovs import privsep  # noqa: E402 - it is loaded by initialize()

privsep.vif_plug.set_client_mode(False)
instance = instance_info.InstanceInfo(uuid=str(uuid.uuid4()), name="bench")
net = network.Network(id=str(uuid.uuid4()), bridge="br-int", mtu=1500)


def port() -> vif.VIFBase:
    own = str(uuid.uuid4())
    more = {"create_port": True} if kind == "ovs" else {}
    common = {
        "id": own,
        "address": "fa:16:3e:00:00:09",
        "network": net,
        "plugin": "ovs",
        "vif_name": f"tap{own[:11]}",
        "port_profile": vif.VIFPortProfileOpenVSwitch(interface_id=own, datapath_type="netdev", **more),
        "has_traffic_filtering": True,
        "preserve_on_delete": False,
        "active": True,
    }
    if kind == "ovs":
        return vif.VIFOpenVSwitch(bridge_name="br-int", **common)
    return vif.VIFBridge(bridge_name=f"qbr{own[:11]}", **common)


taken = []
for _ in range(rounds):
    one = port()
    began = time.perf_counter()
    subprocess.run(["ip", "tuntap", "add", one.vif_name, "mode", "tap"], check=True)
    os_vif.plug(one, instance)
    os_vif.unplug(one, instance)
    subprocess.run(["ip", "link", "del", one.vif_name], check=False, capture_output=True)  # ovs: gone already
    taken.append(time.perf_counter() - began)
subprocess.run(["ovs-vsctl", f"--db={connection}", "--if-exists", "del-br", "br-int"], check=True)
print(json.dumps(taken))
