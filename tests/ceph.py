"""A Ceph of the tests' own: monitor, manager and OSD of Debian's packages, in a folder, on free ports.

cephx is on, as in production. No systemd, no kernel module, nothing that outlives it. The fixture ``ceph``
(conftest.py) shares one among all tests of a worker, in the network that the tests were started in; who
needs it in another network starts one there.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.ports import free_ports
from tests.running import until

POOLS = ("images", "vms", "volumes")
USER = "kilonova"
"""Has the rights that the pools' users need (``profile rbd``), and no others."""
_SIZE = 8 << 30
_START_TIMEOUT = 60.0
_STUBS = (
    "balancer crash devicehealth orchestrator pg_autoscaler progress rbd_support status telemetry volumes"
)


def installed() -> bool:
    return all(shutil.which(f"ceph-{name}") for name in ("mon", "mgr", "osd", "authtool"))


class Ceph:
    """``conf`` is its ceph.conf, which names the keyring of USER.

    ``memstore`` keeps the data in the OSD's memory, and on disk while it is stopped; a killed OSD
    loses it. ``bluestore`` is what production has, and takes some seconds longer to start.
    """

    def __init__(self, store: str = "memstore", pools: Iterable[str] = POOLS) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kilonova-ceph-"))
        self.folder.chmod(0o711)
        self.pools = tuple(pools)
        self.fsid = str(uuid4())
        self._ports = free_ports(2)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        # Daemons end with the thread that started them, whatever ends it; that thread is where its maker was.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="ceph")
        self._do(self._build, store)

    @property
    def conf(self) -> Path:
        return self.folder / "ceph.conf"

    @property
    def monitors(self) -> list[str]:
        """``address:port``."""
        return [f"127.0.0.1:{self._ports[1]}"]

    @property
    def key(self) -> str:
        """USER's, as a libvirt secret takes it."""
        return (self.folder / f"ceph.client.{USER}.keyring").read_text().partition("key = ")[2].split()[0]

    def start(self) -> Ceph:
        """Until I/O works."""
        self._do(self._start)
        return self

    def remove(self) -> None:
        """All of it is gone."""
        for name in ("mgr", "osd", "mon"):
            self._end(name, signal.SIGKILL)
        self._starter.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)

    def stop_osd(self) -> None:
        """Orderly: its data is there when it starts again."""
        self._end("osd", signal.SIGTERM)

    def start_osd(self) -> None:
        """Until I/O works again."""
        self._do(self._begin, "osd", "0")
        self._do(self._until_usable)

    def user(self, name: str, *pools: str) -> None:
        """client.<name>, who may read what is in these pools, write to the first, and reach no other."""
        first, *others = pools
        reads = [f"profile rbd-read-only pool={one}" for one in others]
        may = ", ".join([f"profile rbd pool={first}", *reads])
        caps = ["mon", "profile rbd", "mgr", "profile rbd", "osd", may]
        with _Admin(self.conf) as admin:
            admin.command("auth rm", entity=f"client.{name}")
            (made,) = admin.command("auth get-or-create", entity=f"client.{name}", caps=caps)
        keyring = self.folder / f"ceph.client.{name}.keyring"
        keyring.touch(mode=0o600)
        keyring.write_text(f"[client.{name}]\n\tkey = {made['key']}\n")

    def limit(self, pool: str, size: int) -> None:
        """The pool may hold so many bytes; 0: any number. Until its OSD knows whether it is full."""
        with _Admin(self.conf) as admin:
            admin.command("osd pool set-quota", pool=pool, field="max_bytes", val=str(size))

            def is_full() -> bool:
                (found,) = (one for one in admin.command("osd dump")["pools"] if one["pool_name"] == pool)
                return "full" in found["flags_names"].split(",")

            until(lambda: is_full() is (size > 0), _START_TIMEOUT, "the quota to count")

    def freeze_osd(self) -> None:
        """It answers nobody any more, and breaks no connection."""
        self._running["osd"].send_signal(signal.SIGSTOP)

    def thaw_osd(self) -> None:
        self._running["osd"].send_signal(signal.SIGCONT)

    # --- how it is made
    def _do(self, work: Callable[..., None], *arguments: str) -> None:
        try:
            self._starter.submit(work, *arguments).result()
        except BaseException:
            self.remove()
            raise

    def _build(self, store: str) -> None:
        for name in ("mon", "osd", "run", "log", "mgr/modules"):
            (self.folder / name).mkdir(parents=True)
        self.conf.write_text(self._settings(store))
        # The manager insists on modules that RBD on one node has no use for, and that take it seconds.
        for script in Path("/usr/share/ceph/mgr").glob("*.py"):
            (self.folder / "mgr/modules" / script.name).symlink_to(script)
        for name in _STUBS.split():
            module = self.folder / "mgr/modules" / name
            module.mkdir()
            (module / "__init__.py").write_text(
                "from mgr_module import MgrModule\n\n\nclass Module(MgrModule):\n    pass\n"
            )
        pools = ", ".join(f"profile rbd pool={pool}" for pool in self.pools)
        all_ = {"mon": "allow *", "osd": "allow *", "mgr": "allow *"}
        seed = [
            self._keyring("seed.keyring", "mon.", {"mon": "allow *"}),
            self._keyring("ceph.client.admin.keyring", "client.admin", all_),
            self._keyring(
                f"ceph.client.{USER}.keyring",
                f"client.{USER}",
                {"mon": "profile rbd", "mgr": "profile rbd", "osd": pools},
            ),
            self._keyring("mgr/keyring", "mgr.x", all_ | {"mon": "allow profile mgr"}),
            self._keyring(
                "osd/keyring",
                "osd.0",
                {"mon": "allow profile osd", "mgr": "allow profile osd", "osd": "allow *"},
            ),
        ]
        (self.folder / "seed.keyring").write_text("".join(seed))
        addresses = f"[v2:127.0.0.1:{self._ports[0]},v1:127.0.0.1:{self._ports[1]}]"
        monmap = str(self.folder / "monmap")
        self._run("monmaptool", "--create", "--fsid", self.fsid, "--addv", "a", addresses, monmap)
        keyring = str(self.folder / "seed.keyring")
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)
        self._osd_uuid = str(uuid4())
        self._run("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", self._osd_uuid, "--no-mon-config")

    def _settings(self, store: str) -> str:
        here, (v2, v1) = self.folder, self._ports
        return f"""
[global]
fsid = {self.fsid}
mon_host = [v2:127.0.0.1:{v2}/0,v1:127.0.0.1:{v1}/0]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
auth_allow_insecure_global_id_reclaim = false
keyring = {here}/ceph.$name.keyring
run_dir = {here}/run
admin_socket = {here}/run/$name.asok
log_file = {here}/log/$name.log
crash_dir = {here}/log
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_allow_pool_delete = true
mon_warn_on_pool_no_redundancy = false
[mon]
mon_data = {here}/mon
mon_cluster_log_file = {here}/log/cluster.log
paxos_propose_interval = 0.05
paxos_min_wait = 0.02
mon_data_avail_crit = 1
mon_data_avail_warn = 2
mgr_initial_modules =
[mgr]
mgr_data = {here}/mgr
keyring = {here}/mgr/keyring
mgr_tick_period = 1
mgr_stats_period = 1
mgr_module_path = {here}/mgr/modules
[osd]
osd_data = {here}/osd
keyring = {here}/osd/keyring
osd_objectstore = {store}
bluestore_block_size = {_SIZE}
memstore_device_bytes = {_SIZE}
osd_memory_target = 1073741824
osd_fast_shutdown = false
osd_client_watch_timeout = 10
[client]
admin_socket =
log_file =
rbd_cache = true
rbd_cache_writethrough_until_flush = true
"""

    def _keyring(self, path: str, name: str, caps: dict[str, str]) -> str:
        lines = [
            f"[{name}]",
            f"\tkey = {_new_key()}",
            *(f'\tcaps {of} = "{may}"' for of, may in caps.items()),
        ]
        text = "\n".join(lines) + "\n"
        (self.folder / path).write_text(text)
        (self.folder / path).chmod(0o600)
        return text

    def _start(self) -> None:
        self._begin("mon", "a")
        with _Admin(self.conf) as admin:
            admin.command("osd new", uuid=self._osd_uuid, id=0)
            admin.command("osd crush add", id=0, weight=1.0, args=["host=localhost", "root=default"])
            self._begin("osd", "0")
            self._begin("mgr", "x")
            until(lambda: admin.command("osd stat")["num_up_osds"] == 1, _START_TIMEOUT, "the OSD")
            for pool in self.pools:
                admin.command("osd pool create", pool=pool, pg_num=8)
            for pool in self.pools:
                admin.make_for_rbd(pool)
        self._until_usable()

    def _until_usable(self) -> None:
        """The map may still show an OSD of before; only I/O proves it. Capacities come from the manager."""
        with _Admin(self.conf) as admin:
            admin.write(self.pools[0])
            wanted = set(self.pools)
            until(lambda: wanted <= admin.pools_with_room(), _START_TIMEOUT, "the manager's statistics")

    def _begin(self, name: str, ident: str) -> None:
        with (self.folder / "log" / f"{name}.out").open("ab") as output:
            self._running[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", f"ceph-{name}", "-i", ident, "-f"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def _end(self, name: str, how: signal.Signals) -> None:
        if process := self._running.pop(name, None):
            process.send_signal(how)
            if how != signal.SIGKILL:
                process.send_signal(signal.SIGCONT)
            process.wait(60)

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"

    @property
    def _environment(self) -> dict[str, str]:
        return os.environ | {"CEPH_CONF": str(self.conf), "CEPH_ARGS": ""}


class _Admin:
    """Of the monitor, by the bindings (the command ``ceph`` takes half a second a call)."""

    def __init__(self, conf: Path) -> None:
        import rados

        timeout = str(int(_START_TIMEOUT))
        settings = {"client_mount_timeout": timeout, "rados_osd_op_timeout": timeout}
        self.cluster: Any = rados.Rados(conffile=str(conf), name="client.admin", conf=settings)

    def __enter__(self) -> _Admin:
        self.cluster.connect(timeout=int(_START_TIMEOUT))
        return self

    def __exit__(self, *_: object) -> None:
        self.cluster.shutdown()

    def command(self, name: str, **arguments: Any) -> Any:
        words = json.dumps({"prefix": name, "format": "json", **arguments})
        status, answer, error = self.cluster.mon_command(words, b"")
        assert status == 0, f"{name}: {status} {error}"
        return json.loads(answer) if answer.strip() else None

    def pools_with_room(self) -> set[str]:
        return {pool["name"] for pool in self.command("df")["pools"] if pool["stats"]["max_avail"]}

    def make_for_rbd(self, pool: str) -> None:
        import rbd

        with self.cluster.open_ioctx(pool) as io:
            rbd.RBD().pool_init(io, True)

    def write(self, pool: str) -> None:
        with self.cluster.open_ioctx(pool) as io:
            io.write_full("probe", b"x")
            io.remove_object("probe")


def _new_key() -> str:
    """As ceph-authtool makes one: type (AES), time, length, 16 random bytes."""
    now = time.time()
    head = struct.pack("<HIIH", 1, int(now), int(now % 1 * 1e9), 16)
    return base64.b64encode(head + secrets.token_bytes(16)).decode()
