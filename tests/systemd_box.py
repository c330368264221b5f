"""A machine with systemd of the tests' own: namespaces, and an overlay over this machine's files.

What is written in it goes into a folder of the test's. Its Kilonova is this source tree's, by a virtual
environment in /opt/kilonova that the user kilonova can read.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import cheroot

import kilonova

SYSTEMD = Path("/lib/systemd/systemd")
PYTHON = Path("/usr/bin/python3")
ADDRESS = "10.77.0.1"
_CGROUP = Path("/sys/fs/cgroup/systemd")
"""Where systemd's own hierarchy is, with cgroups of version 1; with version 2 it is /sys/fs/cgroup itself."""
_MASKED = (
    *("systemd-udevd.service", "systemd-udevd-kernel.socket", "systemd-udevd-control.socket"),
    *("systemd-udev-trigger.service", "systemd-sysctl.service", "systemd-modules-load.service"),
    *("systemd-tmpfiles-setup-dev.service", "systemd-remount-fs.service"),
)
"""What would touch the one kernel that all share."""

_BOOT = """
set -e
mount --make-rprivate /
R={folder}/root
mount -t overlay overlay -o lowerdir=/,upperdir={folder}/upper,workdir={folder}/work $R
for unit in {masked}; do ln -sf /dev/null $R/etc/systemd/system/$unit; done
mkdir -p $R/opt/kilonova-tree/src $R/opt/kilonova-tree/packages
mount --bind {source} $R/opt/kilonova-tree/src
mount --bind {packages} $R/opt/kilonova-tree/packages
mount -t proc proc $R/proc
mount -t tmpfs tmpfs $R/run
mount -t tmpfs -o mode=1777 tmpfs $R/tmp
mount --rbind /dev $R/dev
mount -t sysfs sysfs $R/sys
{cgroups}
ip link set lo up
ip address add {address}/32 dev lo
hostname box
export container=lxc PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p $R/mnt/outside
cd $R
pivot_root . mnt/outside
cd /
umount -l /mnt/outside
exec {systemd} --system --unit=basic.target --log-target=journal
"""
_CGROUPS_1 = """
mount -t tmpfs tmpfs $R/sys/fs/cgroup
mkdir $R/sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd cgroup $R/sys/fs/cgroup/systemd
"""
_CGROUPS_2 = "mount -t cgroup2 cgroup $R/sys/fs/cgroup"


def unavailable() -> str:
    """Why there can be no such box on this machine; empty if there can."""
    if not SYSTEMD.exists() or not PYTHON.exists():
        return "needs systemd and a Python of the system's"
    version = subprocess.run([PYTHON, "--version"], capture_output=True, text=True, check=True).stdout
    if not version.startswith(f"Python {sys.version_info.major}.{sys.version_info.minor}."):
        return f"the system's {version.strip()} cannot use the packages of Python {sys.version.split()[0]}"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "needs overlay file systems"
    return ""


class Box:
    """start(), run() in it, close(): then nothing is left of it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kilonova-box-", dir="/var/tmp"))
        for name in ("root", "upper", "work"):
            (self.folder / name).mkdir()
        top = _CGROUP if _CGROUP.exists() else Path("/sys/fs/cgroup")
        self._cgroup = top / self.folder.name
        self._boot: subprocess.Popen[bytes] | None = None
        self.pid = 0
        """Of its systemd."""

    def start(self) -> Box:
        self._cgroup.mkdir()
        script = _BOOT.format(
            folder=self.folder,
            masked=" ".join(_MASKED),
            source=Path(kilonova.__file__).parents[2],
            packages=Path(cheroot.__file__).parents[1],
            cgroups=_CGROUPS_1 if _CGROUP.exists() else _CGROUPS_2,
            address=ADDRESS,
            systemd=SYSTEMD,
        )
        enter = f'echo $$ > {self._cgroup}/cgroup.procs; exec "$@"'
        apart = ["--mount", "--net", "--uts", "--ipc", "--cgroup", "--pid", "--fork", "--kill-child=KILL"]
        command = [
            "setpriv",
            "--pdeathsig=KILL",
            "sh",
            "-c",
            enter,
            "sh",
            "unshare",
            *apart,
            "bash",
            "-c",
            script,
        ]
        with (self.folder / "boot.log").open("wb") as log:
            self._boot = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + 180
        while not self._booted():
            assert self._boot.poll() is None, (self.folder / "boot.log").read_text()
            assert time.monotonic() < end, "systemd did not come up"
            time.sleep(0.1)
        self._install()
        return self

    def _booted(self) -> bool:
        assert self._boot is not None
        with suppress(OSError, IndexError):
            children = Path(f"/proc/{self._boot.pid}/task/{self._boot.pid}/children").read_text().split()
            self.pid = int(children[0])
            if os.readlink(f"/proc/{self.pid}/exe").endswith("systemd"):
                return self.run("systemctl", "is-active", "basic.target", check=False).strip() == "active"
        return False

    def _install(self) -> None:
        """As packaging/install does, without fetching packages."""
        self.run(str(PYTHON), "-m", "venv", "--without-pip", "/opt/kilonova")
        found = self.run(
            "/opt/kilonova/bin/python", "-c", "import site; print(site.getsitepackages()[0])"
        ).strip()
        paths = "/opt/kilonova-tree/src/src\n/opt/kilonova-tree/packages\n"
        self.path(f"{found}/kilonova.pth").write_text(paths)
        program = self.path("/usr/local/bin/kilonova")
        program.write_text("#!/opt/kilonova/bin/python\nfrom kilonova.cli import main\nmain()\n")
        program.chmod(0o755)

    def path(self, inside: str) -> Path:
        """A file in the box, from outside."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def run(self, *words: str, check: bool = True) -> str:
        """What the command in the box prints; AssertionError if it fails."""
        spaces = ["--mount", "--net", "--uts", "--ipc", "--pid", "--cgroup", "--root", "--wd=/"]
        clean = [
            "env",
            "-i",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG=C.UTF-8",
        ]
        done = subprocess.run(
            ["nsenter", "-t", str(self.pid), *spaces, *clean, *words],
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
            cwd="/",
        )
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def close(self) -> None:
        if self._boot is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid or self._boot.pid, signal.SIGKILL)
            self._boot.wait(30)
        for folder in sorted(self._cgroup.rglob("*"), reverse=True):
            if folder.is_dir():
                with suppress(OSError):
                    folder.rmdir()
        with suppress(OSError):
            self._cgroup.rmdir()
        shutil.rmtree(self.folder)
