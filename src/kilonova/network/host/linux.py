"""Links, namespaces and kernel settings: the few netlink calls that the host part is made of.

Each ``ensure_…`` looks first, does what is missing, and returns a line for each thing it did.
Uses one netlink socket a call: pyroute2's sockets are not for several threads at once. Opened when it is
first used; what is asked often is asked without it (rtnl.py).
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pyroute2
from pyroute2 import netns
from pyroute2.netlink.exceptions import NetlinkError

from kilonova.domain.errors import BuildFailed
from kilonova.network.host import bridge_settings, rtnl
from kilonova.network.host.rtnl import Link

NETNS_FOLDER = Path("/run/netns")
"""Where iproute2 looks too: ``ip netns`` shows our namespaces."""

T = TypeVar("T")

Netlink = Any
"""An open pyroute2.IPRoute; its methods are made at run time, out of a type checker's sight."""

_CLONE_NEWNET = 0x40000000


@contextmanager
def making(what: str) -> Iterator[None]:
    """Whatever the kernel refuses inside becomes a BuildFailed that says what could not be made."""
    try:
        yield
    except NetlinkError as error:
        raise BuildFailed(f"{what}: {os.strerror(error.code)}") from error
    except OSError as error:
        raise BuildFailed(f"{what}: {error.strerror or error}") from error


class _Socket:
    """pyroute2's, from its first use on: most often there is none."""

    def __init__(self) -> None:
        self._opened: Any = None

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._opened is not None:
            self._opened.close()

    def __getattr__(self, name: str) -> Any:
        if self._opened is None:
            self._opened = pyroute2.IPRoute()  # type: ignore[no-untyped-call, attr-defined]
        return getattr(self._opened, name)


def netlink() -> Netlink:
    """A netlink socket for a ``with``, in the namespace in which it is first used."""
    return _Socket()


def find(name: str) -> Link | None:
    return rtnl.link(name)


def index_of(name: str) -> int:
    link = find(name)
    if link is None:
        raise BuildFailed(f"device {name} is gone")
    return link.index


def ensure_bridge(ip: Netlink, name: str, mtu: int, tracked: bool = True) -> list[str]:
    """A bridge that forwards at once, floods multicast, speaks no spanning tree and learns so many MACs.
    ``tracked``: what passes is seen by the host's rules for connections."""
    options = {"br_forward_delay": 0, "br_stp_state": 0, "br_mcast_snooping": 0}
    done = _ensure_link(
        name,
        mtu=mtu,
        master=None,
        add=lambda: ip.link("add", ifname=name, kind="bridge", **options),
    )
    with making(f"device {name}"):
        bridge = find(name)
        assert bridge is not None, "made before"
        told = bridge_settings.ensure(bridge, tracked)
    return done or [f"device {name}: {line}" for line in told]


def is_tracked(bridge: str) -> bool:
    link = find(bridge)
    return link is not None and bridge_settings.is_tracked(link)


def ensure_veth(
    ip: Netlink,
    name: str,
    peer: str,
    namespace: str | None,
    mtu: int,
    master: int | None = None,
    peer_mac: str | None = None,
) -> list[str]:
    """A veth pair: ``name`` here, ``peer`` in the namespace, or here too; the kernel makes and removes both
    as one. A new peer has the MAC ``peer_mac``, or a random one.
    """
    end = {"ifname": peer}
    if namespace is not None:
        end["net_ns_fd"] = str(NETNS_FOLDER / namespace)
    if peer_mac is not None:
        end["address"] = peer_mac
    return _ensure_link(
        name, mtu=mtu, master=master, add=lambda: ip.link("add", ifname=name, kind="veth", peer=end)
    )


def ensure_vxlan(
    ip: Netlink, name: str, *, mtu: int, vni: int, local: str, port: int, most_macs: int
) -> list[str]:
    """A VXLAN device that sends from that address and learns who is where, of so many. One that is there is
    taken for it."""
    options = {
        "vxlan_id": vni,
        "vxlan_local": local,
        "vxlan_port": port,
        "vxlan_learning": 1,
        "vxlan_limit": most_macs,
    }
    return _ensure_link(
        name,
        mtu=mtu,
        master=None,
        add=lambda: ip.link("add", ifname=name, kind="vxlan", **options),
    )


def ensure_tap(name: str) -> list[str]:
    """A persistent tap, down and on no bridge yet. A device of that name made by others is taken as it is."""
    if find(name):
        return []
    with making(f"tap {name}"):
        rtnl.make_tap(name)
    return [f"tap {name} made"]


def ensure_set(name: str, *, mtu: int, master: int | None = None) -> list[str]:
    """An existing device is up and, with ``master``, a port of that bridge."""
    return _ensure_link(name, mtu=mtu, master=master, add=None)


def _ensure_link(name: str, *, mtu: int, master: int | None, add: Callable[[], Any] | None) -> list[str]:
    done = []
    with making(f"device {name}"):
        link = find(name)
        if link is None:
            if add is None:
                raise BuildFailed(f"device {name} is not there")
            add()
            link = find(name)
            assert link is not None
            done.append(f"device {name} made")
        wanted: dict[str, Any] = {}
        if link.mtu != mtu:
            wanted["mtu"] = mtu
        if master is not None and link.master != master:
            wanted["master"] = master
        if not link.up:
            # Before it is up: no router solicitation, no address of the host on a guest's network.
            disable_ipv6(name)
            wanted["up"] = True
        if wanted:
            rtnl.change(link.index, **wanted)
            done = done or [f"device {name} set right: {', '.join(sorted(wanted))}"]
    return done


def silence(name: str) -> None:
    """The device, if it is there, passes nothing any more (0.5 ms; removing it takes the kernel 25)."""
    link = find(name)
    if link:
        with making(f"device {name}"):
            rtnl.change(link.index, up=False)


def delete_link(name: str) -> None:
    delete_links([name])


def delete_links(names: Iterable[str]) -> None:
    """These devices are gone, in one step: the kernel waits once for its CPUs (25 ms), not for each."""
    links = [link for name in names if (link := find(name))]
    if len(links) < 2:
        for link in links:
            _unless_gone(lambda one=link: rtnl.remove(one.index))  # type: ignore[misc]
        return
    # A group of their own: never 0, which every device is in, nor a small number, as people give.
    group = 1 << 31 | links[0].index
    for link in links:
        _unless_gone(lambda one=link: rtnl.change(one.index, group=group))  # type: ignore[misc]
    _unless_gone(lambda: rtnl.remove_group(group))


def _unless_gone(act: Callable[[], object]) -> None:
    try:
        act()
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise


def disable_ipv6(name: str) -> None:
    """No IPv6 on that device (``all`` and ``default`` too); nothing if this kernel has none."""
    path = Path("/proc/sys/net/ipv6/conf", name, "disable_ipv6")
    if path.exists():
        path.write_text("1")


def inside(namespace: str, work: Callable[[], T]) -> T:
    """``work()`` run in that network namespace: sockets, links and children made there belong to it.

    A namespace is a thread's own, so this takes a thread, which ends with the work (0.2 ms).
    """
    return _in_thread(lambda: (netns.setns(namespace, flags=0), work())[1])


def aside(work: Callable[[], T]) -> T:
    """``work()`` run in a new network namespace that has nothing in it, and goes when the work is done."""

    def alone() -> T:
        with making("a namespace"):
            _unshare()
        return work()

    return _in_thread(alone)


def together(*work: Callable[[], None]) -> None:
    """All at once, for some that mostly wait for the kernel; raises what one of them raised."""
    *others, last = work
    with ThreadPoolExecutor(len(others)) as pool:
        begun = [pool.submit(one) for one in others]
        last()
    for one in begun:
        one.result()


def _in_thread(work: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1, thread_name_prefix="netns") as pool:
        return pool.submit(work).result()


def namespace_exists(name: str) -> bool:
    """False too for a file that a crash left before the namespace was mounted on it."""
    try:
        return os.stat(NETNS_FOLDER / name).st_dev == os.stat("/proc/self/ns/net").st_dev
    except FileNotFoundError:
        return False


def ensure_namespace(name: str, prepare: Callable[[], None]) -> list[str]:
    """``prepare()`` runs inside before the namespace has its name: one with a name was prepared, whenever
    this process is killed."""
    if namespace_exists(name):
        return []

    def make() -> None:
        _unshare()
        prepare()
        netns.attach(name, threading.get_native_id())

    with making(f"namespace {name}"):
        (NETNS_FOLDER / name).unlink(missing_ok=True)
        _in_thread(make)
    return [f"namespace {name} made"]


def _unshare() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def delete_namespace(name: str) -> None:
    if namespace_exists(name):
        netns.remove(name)
    (NETNS_FOLDER / name).unlink(missing_ok=True)
