"""The compute agents of this process: one of a libvirt host, or any number of fake ones."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click

from kilonova.bus.base import Bus
from kilonova.cli.parts.stop import go_on
from kilonova.compute.agent import Agent
from kilonova.compute.parts import Parts
from kilonova.config import Config
from kilonova.domain.errors import StaleEpoch
from kilonova.engine.faults import FaultPoints
from kilonova.engine.ticker import Ticker
from kilonova.image.base import ImageSink, ImageSource
from kilonova.monitoring.watch import Watch
from kilonova.network.base import HostNetwork
from kilonova.virt.base import Driver

_POOL, _BUILDS = "compute", "builds"

Say = Callable[[str], None]
MakeHost = Callable[[str], tuple[Driver, HostNetwork]]


def options(command: Callable[..., None]) -> Callable[..., None]:
    """The command gets ``driver`` and ``hosts``."""
    driver = click.option(
        "--driver",
        type=click.Choice(["libvirt", "fake"]),
        default="libvirt",
        show_default=True,
        help="Real guests, or remembered ones, for load and trials.",
    )
    hosts = click.option(
        "--hosts",
        type=click.IntRange(1, 10000),
        default=1,
        show_default=True,
        help="Compute hosts in this process (fake driver only).",
    )
    return driver(hosts(command))


def check(driver: str, hosts: int) -> None:
    """UsageError, ClickException: these agents cannot be on this machine, by this user."""
    if hosts > 1 and driver != "fake":
        raise click.UsageError("--hosts needs --driver fake: one process is one libvirt host")
    if driver == "libvirt" and os.geteuid() != 0:
        raise click.ClickException(
            "the libvirt driver makes network devices for its guests, which only root may do: run it as root,"
            " or try it with --driver fake (kilonova doctor says what else is missing)"
        )


def own_name(config: Config) -> str:
    return config.host or socket.gethostname()


def host_names(config: Config, count: int) -> list[str]:
    own = own_name(config)
    return [own] if count == 1 else [f"{own}-{number}" for number in range(1, count + 1)]


def pools(config: Config) -> dict[str, int]:
    """The bus's pools of threads that work for all agents of this process."""
    return {
        _POOL: config.compute.max_concurrent_actions,
        _BUILDS: config.compute.max_concurrent_builds,
    }


def start_agents(
    config: Config,
    bus: Bus,
    faults: FaultPoints,
    names: list[str],
    make: MakeHost,
    stop: threading.Event,
    watch: Watch,
    closing: ExitStack,
    images: ImageSink | None = None,
) -> None:
    """Each agent waits for a conductor; when it returns, all take work. Stopped: ``stop`` was set before."""
    tickers = (
        Ticker("reports"),
        Ticker("leases"),
        Ticker("looks"),
        Ticker("repairs"),
        Ticker("mends"),
        Ticker("images"),
    )
    for ticker in tickers:
        closing.callback(ticker.close)
    drivers: list[Driver] = []
    for name in names:
        driver, network = make(name)
        drivers.append(driver)
        if len(drivers) == 1:
            watch.health.watch("hypervisor", partial(_check, drivers))
        parts = Parts(
            host=name,
            config=config,
            bus=bus,
            driver=driver,
            network=network,
            faults=faults,
            images=images,
        )
        agent = Agent(parts, _POOL, _BUILDS)
        closing.callback(agent.stop)
        go_on(stop)
        try:
            agent.start(*tickers, stop)
        except StaleEpoch:
            go_on(stop)
            raise
        go_on(stop)


def _check(drivers: list[Driver]) -> None:
    for driver in drivers:
        driver.check()


def host_maker(driver: str, config: Config, folder: Path, images: ImageSource | None, say: Say) -> MakeHost:
    """Makes the driver and the network of a host; what they keep is in a folder of its name.

    The fake driver needs no ``images``.
    """

    def fake(name: str) -> tuple[Driver, HostNetwork]:
        from kilonova.network.host import MemoryHost
        from kilonova.virt.fake import FakeDriver

        return FakeDriver(name, config, folder=folder / name), MemoryHost()

    def libvirt(name: str) -> tuple[Driver, HostNetwork]:
        from kilonova.cli.parts import tunnels
        from kilonova.network.host import LinuxHost
        from kilonova.virt.libvirt.driver import LibvirtDriver
        from kilonova.virt.libvirt.reaper import adopt_guests

        adopt_guests()
        say("connecting to libvirt (the first start looks at what QEMU can do: some seconds)")
        assert images is not None
        own = folder / name
        own.mkdir(exist_ok=True, mode=0o700)
        network = LinuxHost(tunnels.settled(config, say), own / "network")
        return LibvirtDriver(config, own, images, say), network

    return {"fake": fake, "libvirt": libvirt}[driver]
