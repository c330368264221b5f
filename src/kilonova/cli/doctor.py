"""``kilonova doctor``: what this machine has, what it lacks, what that means, and the command that gets it.

Looks and tries, and changes nothing: devices and rules are tried in a network namespace that ends with the
process that made it. One function a check; the table CHECKS says which there are.
"""

from __future__ import annotations

import json
import os
import platform
import pwd
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import click
import msgspec
from rich.console import Console
from rich.table import Table

from kilonova import config, passage
from kilonova.cli import network_checks, switch_checks
from kilonova.cli.parts.process import config_option
from kilonova.disk_image import qemu_img
from kilonova.domain.errors import BadRequest, BuildFailed, KilonovaError, Unavailable
from kilonova.virt.libvirt import embed, kvm
from kilonova.virt.libvirt.embed import EXAMPLE, QEMU_USER
from kilonova.virt.libvirt.needs import APT, NEEDS, Lacking, Need
from kilonova.virt.libvirt.reach import PACKAGE

_CEPH_ANSWERS = 10
"""Seconds that a cluster has."""


class Where(NamedTuple):
    """What the user asks about."""

    state: Path | None
    port: int | None
    network: config.Network = config.Network()
    ceph: bool = False
    """It is configured."""
    guests: config.Libvirt = config.Libvirt()
    tgt_sockets: tuple[Path, ...] = ()
    """Of the configured backends of iSCSI."""


class NotAsked(Exception):
    """The check is about something that the user did not name."""


class Check(NamedTuple):
    name: str
    look: Callable[[Where], str]
    """What was found, in a few words. Raises Lacking, or NotAsked."""
    meaning: str
    """What it means that this is lacking."""
    command: str
    """How to get it; empty if no command does."""
    needed: bool = True
    """Kilonova cannot boot a guest without it."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    check: str
    state: Literal["ok", "missing", "lesser", "mended", "failed"]
    """``lesser``: lacking, and Kilonova works all the same. ``mended``, ``failed``: what a host found wrong
    with its network, and did or could not mend, then."""
    found: str
    meaning: str = ""
    command: str = ""


def examine(where: Where) -> list[Finding]:
    """All checks, in the order of the table."""
    findings = []
    for check in CHECKS:
        try:
            found = check.look(where)
        except NotAsked:
            continue
        except Lacking as lacking:
            state: Literal["missing", "lesser"] = "missing" if check.needed else "lesser"
            findings.append(
                Finding(
                    check=check.name,
                    state=state,
                    found=str(lacking),
                    meaning=check.meaning,
                    command=check.command,
                )
            )
        else:
            findings.append(Finding(check=check.name, state="ok", found=found))
    return findings


@click.command()
@click.option("--state", type=click.Path(path_type=Path), help="Look at this state folder, too.")
@click.option("--port", type=click.IntRange(1, 65535), help="See whether this port is free, too.")
@config_option(required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option(
    "--orphans",
    "only_orphans",
    is_flag=True,
    help="Instead, list volumes, images and disks here that no record explains.",
)
def doctor(
    state: Path | None, port: int | None, config_file: Path | None, as_json: bool, only_orphans: bool
) -> None:
    """Say what this machine lacks to run guests, and how to get it."""
    if only_orphans:
        from kilonova.cli import orphans

        sys.exit(orphans.show(state, config_file, as_json))
    try:
        options = config.load(config_file)
    except BadRequest as error:
        raise click.ClickException(error.message) from error
    ceph, sockets = _has_ceph(options), _tgt_sockets(options)
    findings = examine(Where(state, port, options.network, ceph, options.libvirt, sockets))
    lately = _lately(state) if state else []
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(findings + lately), indent=2))
    else:
        _print(findings, Console())
        _print_lately(lately, Console())
    if any(finding.state == "missing" for finding in findings):
        sys.exit(1)


def _has_ceph(options: config.Config) -> bool:
    in_volumes = any(backend.driver == "rbd" for backend in options.volume.backends.values())
    return in_volumes or options.image.backend == "rbd" or options.libvirt.images_type == "rbd"


def _tgt_sockets(options: config.Config) -> tuple[Path, ...]:
    backends = options.volume.backends.values()
    return tuple(Path(one.tgt_socket) for one in backends if one.driver == "iscsi")


_STYLES = {"ok": "green", "missing": "bold red", "lesser": "yellow", "mended": "cyan", "failed": "bold red"}


def _print(findings: list[Finding], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("", "check", "found", "what it means"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        table.add_row(
            finding.state, finding.check, finding.found, finding.meaning, style=_STYLES[finding.state]
        )
    console.print(table)
    commands = _merged([finding.command for finding in findings if finding.command])
    if commands:
        console.print("\nTo get what is missing:")
    for command in commands:
        console.print(f"  {command}", highlight=False, soft_wrap=True)


def _print_lately(findings: list[Finding], console: Console) -> None:
    if findings:
        console.print("\nWhat agents found wrong lately, and mended or failed to:")
    for one in findings:
        console.print(f"  {one.meaning}  {one.state}  {one.check}", style=_STYLES[one.state], highlight=False)
        console.print(f"    {one.found}", highlight=False, markup=False, soft_wrap=True)


def _merged(commands: list[str]) -> list[str]:
    """The same, with one call of apt-get for all packages."""
    packages = dict.fromkeys(command.removeprefix(APT) for command in commands if command.startswith(APT))
    others = [command for command in commands if not command.startswith(APT)]
    return [APT + " ".join(packages), *others] if packages else others


def _run(*command: str, text: str = "") -> str:
    """The command's output. Lacking if it cannot be run, or fails: then its own words."""
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=20, check=False)
    except FileNotFoundError:
        raise Lacking(f"no {command[0]}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Lacking(str(error)) from error
    if done.returncode != 0:
        raise Lacking((done.stderr.strip() or f"{command[0]} failed").splitlines()[0])
    return done.stdout


def _version(text: str) -> str:
    found = re.search(r"\d+(\.\d+)+", text)
    return found[0] if found else text.strip()


def _python(_: Where) -> str:
    return platform.python_version()  # one that is too old does not get this far


def _root(_: Where) -> str:
    if os.geteuid() != 0:
        raise Lacking(f"user {os.geteuid()}")
    return "yes"


def _kvm(_: Where) -> str:
    verdict = kvm.probe(user=embed.qemu_user())
    if not verdict.usable:
        raise Lacking(verdict.reason)
    return verdict.reason or "runs a guest"


def _dnsmasq(_: Where) -> str:
    return _version(_run("dnsmasq", "--version"))


def _ip(_: Where) -> str:
    return _version(_run("ip", "-Version"))


def _nft(_: Where) -> str:
    return _version(_run("nft", "--version"))


def _tracking(_: Where) -> str:
    if not Path("/proc/sys/net/bridge").exists():
        raise Lacking("no br_netfilter")
    return "br_netfilter is there"


def _in_new_namespace(*command: str, text: str) -> str:
    """Try it in a network namespace that is gone when the command ends."""
    return _run("unshare", "--net", *command, text=text)


def _namespaces(_: Where) -> str:
    _in_new_namespace("true", text="")
    return "can be made"


def _device(batch: str) -> Callable[[Where], str]:
    def look(_: Where) -> str:
        _in_new_namespace("ip", "-batch", "-", text=batch)
        return "can be made"

    return look


_BRIDGE_RULES = """
table bridge doctor {
    chain guard { type filter hook forward priority 0; ether type arp accept; iifname "tap0" drop; }
}
"""
_NAT_RULES = """
table ip doctor {
    chain out { type nat hook postrouting priority 100; ip saddr 192.0.2.0/24 masquerade; }
}
"""


def _rules(rules: str) -> Callable[[Where], str]:
    def look(_: Where) -> str:
        _in_new_namespace("nft", "-f", "-", text=rules)
        return "can be loaded"

    return look


def _switched(look: Callable[[Where], str], *kinds: str) -> Callable[[Where], str]:
    """The look, if one of these plugs is chosen."""

    def asked(where: Where) -> str:
        if where.network.plug not in kinds:
            raise NotAsked
        return look(where)

    return asked


def _ceph(where: Where) -> str:
    if not where.ceph:
        raise NotAsked
    from kilonova.rbd import bindings

    try:
        bindings.check()
    except Unavailable as error:
        raise Lacking(error.message) from error
    return "can be imported"


def _disks_in_ceph(where: Where) -> str:
    options = where.guests
    if options.images_type != "rbd":
        raise NotAsked
    from kilonova.rbd import Cluster
    from kilonova.rbd.keyring import key_of

    conf = Path(options.images_rbd_ceph_conf)
    cluster = Cluster(conf, options.rbd_user, timeout=_CEPH_ANSWERS)
    try:
        if not options.rbd_secret_uuid:
            key_of(conf, options.rbd_user)
        total, free = cluster.pool(options.images_rbd_pool).capacity()
    except KilonovaError as error:
        raise Lacking(error.message) from error
    finally:
        cluster.close()
    return f"pool {options.images_rbd_pool}: {free >> 30} of {total >> 30} GiB free"


def _tgtd(where: Where) -> str:
    if not where.tgt_sockets:
        raise NotAsked
    from kilonova.volume.backends.tgt import Tgt

    try:
        served = [len(Tgt(address).targets()) for address in where.tgt_sockets]
    except KilonovaError as error:
        raise Lacking(error.message) from error
    return f"serves {sum(served)} volumes"


def _block_drivers(_: Where) -> str:
    try:
        lacks = [name for name in ("rbd", "iscsi") if not qemu_img.has_driver(name)]
    except BuildFailed as error:
        raise Lacking(error.message) from error
    if lacks:
        raise Lacking(f"no {' and no '.join(lacks)}")
    return "rbd, iscsi"


def _switch_ports(where: Where) -> str:
    if where.state is None:
        raise NotAsked
    return switch_checks.ports(where.network, where.state)


def _network_now(where: Where) -> str:
    if where.state is None or os.geteuid() != 0:
        raise NotAsked
    hosts = network_checks.hosts(where.state)
    if not hosts:
        raise NotAsked
    problems = network_checks.problems(hosts, where.network)
    if problems:
        raise Lacking("\n".join(problems))
    return "as recorded"


def _lately(state: Path) -> list[Finding]:
    """What hosts of that folder found wrong with their networks, the oldest first."""
    return [
        Finding(
            check=f"network of {host}",
            state="mended" if one.mended else "failed",
            found=one.what,
            meaning=network_checks.when(one),
        )
        for host, one in network_checks.lately(state)
    ]


def _memory(_: Where) -> str:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    mib = int(fields["MemAvailable"].split()[0]) // 1024
    if mib < 1024:
        raise Lacking(f"{mib} MiB")
    return f"{mib} MiB"


def _disk(where: Where) -> str:
    free = shutil.disk_usage(_existing(where.state or Path.cwd())).free / 2**30
    if free < 5:
        raise Lacking(f"{free:.1f} GiB")
    return f"{free:.0f} GiB"


def _state(where: Where) -> str:
    if where.state is None:
        raise NotAsked
    folder = _existing(where.state)
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise Lacking(f"{folder} cannot be written")
    return "there" if where.state.is_dir() else f"will be made in {folder}"


def _way(where: Where) -> str:
    """The state folder itself is opened at the start; those above it are not ours to open."""
    if where.state is None:
        raise NotAsked
    try:
        uid = pwd.getpwnam(QEMU_USER).pw_uid
    except KeyError:
        raise NotAsked from None  # which is a finding of its own
    closed = passage.obstacle(_existing(where.state.absolute().parent), uid)
    if closed is not None:
        raise Lacking(f"{closed} is closed for it")
    return "yes"


def _existing(path: Path) -> Path:
    """The path, or the nearest of its parents that exists."""
    return next(place for place in [path.absolute(), *path.absolute().parents] if place.exists())


def _port(where: Where) -> str:
    if where.port is None:
        raise NotAsked
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", where.port))
        except OSError as error:
            raise Lacking(f"{where.port}: {error.strerror}") from error
    return f"{where.port} is free"


def _apt(*packages: str) -> str:
    return APT + " ".join(packages)


def _check(need: Need) -> Check:
    return Check(need.name, lambda _: need.look(), need.meaning, need.command)


_BOTH = ("ovs-hybrid", "ovs")
_START_SWITCH = "systemctl start openvswitch-switch"

_KERNEL = "the kernel, or the container around us, does not allow it"

CHECKS = (
    Check("Python", _python, "3.11 or later is needed", _apt("python3")),
    Check("root", _root, "only root may make networks for guests", "sudo -s"),
    *map(_check, NEEDS),
    Check("KVM", _kvm, "guests are emulated: they work, and are slower", "", needed=False),
    Check("dnsmasq", _dnsmasq, "it gives guests their addresses", _apt("dnsmasq-base")),
    Check("ip", _ip, "it shows, and here it tries, the devices of networks", _apt("iproute2")),
    Check("nft", _nft, "it loads the firewall's rules", _apt("nftables")),
    Check("network namespaces", _namespaces, _KERNEL, ""),
    Check("bridge devices", _device("link add br0 type bridge\n"), _KERNEL, ""),
    Check("veth devices", _device("link add veth0 type veth peer name veth1\n"), _KERNEL, ""),
    Check("tap devices", _device("tuntap add dev tap0 mode tap\n"), _KERNEL, ""),
    Check("firewall on bridges", _rules(_BRIDGE_RULES), f"guests could pose as others: {_KERNEL}", ""),
    Check(
        "connections of bridges",
        _switched(_tracking, "bridge", "ovs-hybrid"),
        "without the kernel's br_netfilter there are no security groups",
        "modprobe br_netfilter",
    ),
    Check("NAT", _rules(_NAT_RULES), f"guests would not reach the outside: {_KERNEL}", ""),
    Check(
        "Ceph's Python bindings",
        _ceph,
        "images and volumes in Ceph cannot be reached",
        _apt("python3-rados", "python3-rbd"),
    ),
    Check(
        "guests' disks in Ceph",
        _disks_in_ceph,
        "no server can be built here: ceph.conf, the user's keyring and the pool must be there, see"
        " docs/how-to/keep-disks-in-ceph.md",
        "",
    ),
    Check(
        "QEMU's drivers of Ceph and iSCSI",
        _block_drivers,
        "guests here have no volumes behind iSCSI, and no volumes or disks in Ceph",
        _apt(PACKAGE),
        needed=False,
    ),
    Check(
        "tgtd",
        _tgtd,
        "it serves the volumes of the configured iSCSI backend",
        _apt("tgt"),
    ),
    Check(
        "Open vSwitch",
        _switched(lambda _: _version(_run("ovs-ofctl", "--version")), *_BOTH),
        "the chosen plug joins guests to it",
        _apt("openvswitch-switch"),
    ),
    Check(
        "Open vSwitch's database",
        _switched(lambda where: switch_checks.database(where.network), *_BOTH),
        "no guest can be joined to its network, nor parted from it",
        _START_SWITCH,
    ),
    Check(
        "Open vSwitch's switch",
        _switched(lambda where: switch_checks.daemon(where.network), *_BOTH),
        "packets of guests go nowhere",
        _START_SWITCH,
    ),
    Check(
        "checksums of guests on Open vSwitch",
        _switched(lambda where: switch_checks.checksums(where.network), "ovs"),
        "guests could ping, and have no TCP: they are refused",
        "ovs-vsctl set Open_vSwitch . other_config:userspace-tso-enable=true;"
        " systemctl restart openvswitch-switch",
    ),
    Check(
        "ports of Open vSwitch",
        _switched(_switch_ports, *_BOTH),
        "these guests or networks are cut off; a compute that runs mends that within seconds",
        "",
    ),
    Check(
        "networks of guests",
        _network_now,
        "an agent that runs mends this within 10 seconds; what it mended, and could not mend, is told below",
        "",
    ),
    Check("memory", _memory, "less than 1 GiB is free: hardly a guest fits", "", needed=False),
    Check("disk", _disk, "less than 5 GiB is free: hardly an image fits", "", needed=False),
    Check("state folder", _state, "Kilonova keeps everything there", ""),
    Check(
        f"QEMU's user ({QEMU_USER}) reaches the state folder",
        _way,
        f"guests would run as root: better give a --state that all may reach, {EXAMPLE}",
        "",
        needed=False,
    ),
    Check("port", _port, "another program serves there: choose another with --port", ""),
)
