"""build_and_run_instance: a server becomes a running guest, read from top to bottom.

Networks; volumes (prepare_block_devices); the image, the disks and the config drive (create_image);
plug_vifs; the domain, paused (create_domain); the commit by the conductor; resume; wait_for_boot. Every step
looks at the host and does only what is missing, so that a build which was cut off anywhere goes on by running
again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from msgspec import structs

from kilonova.cancel import Cancel
from kilonova.compute import server_volumes, vendor_data
from kilonova.compute.journal import Journal
from kilonova.compute.parts import Parts
from kilonova.compute.refresh import Learn
from kilonova.domain.block_devices import BlockDevice, with_disks
from kilonova.domain.messages import Activate, AllocateNetworks, Nothing, Vifs, Work
from kilonova.domain.network import Vif
from kilonova.domain.servers import BuildSpec, GuestMetadata, PowerState, TaskState, guest_metadata

BOOT_TIMEOUT = 60.0
"""Seconds for the hypervisor to say that a guest it was told to resume runs; it takes milliseconds."""


class FailedAfterCommit(Exception):
    """The server is ACTIVE and its guest could not be let run: nothing is undone, the user is told."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


def build_and_run_instance(
    parts: Parts, work: Work, journal: Journal, cancel: Cancel, learn: Learn
) -> PowerState:
    """Build the server; its power state at the end. Raises what the failing step raised."""
    spec = with_secrets(work)
    vifs = _networks(parts, work, journal, learn)
    disks = server_volumes.prepare_block_devices(parts, work, journal, cancel)
    _create_image(parts, work, spec, vifs, disks.devices, journal, cancel)
    _plug_vifs(parts, spec, vifs, journal)
    with journal.step("create_domain", undo=lambda: parts.driver.destroy(spec.server_id)):
        parts.driver.ensure_paused(spec, vifs, disks.volumes)
    _commit(parts, work, journal)
    try:
        return _let_run(parts, work, journal)
    except Exception as error:
        raise FailedAfterCommit(error) from error


def _networks(parts: Parts, work: Work, journal: Journal, learn: Learn) -> list[Vif]:
    if not work.spec.networks:
        return []
    with journal.step("allocate_networks"):
        asked = time.monotonic()
        message = AllocateNetworks(
            host=parts.host,
            operation_id=work.operation_id,
            epoch=work.epoch,
            follows=parts.network.follows,
        )
        answer = journal.ask("allocate_networks", message, Vifs)
        learn(answer.state, asked)
        return answer.vifs


def _create_image(
    parts: Parts,
    work: Work,
    spec: BuildSpec,
    vifs: list[Vif],
    devices: list[BlockDevice],
    journal: Journal,
    cancel: Cancel,
) -> None:
    """The base image on this host, and the server's own disks over it."""
    driver = parts.driver
    with journal.step("fetch_image", shows=TaskState.SPAWNING):
        driver.ensure_base_image(spec, cancel)
    with journal.step("create_disks", undo=lambda: driver.destroy(spec.server_id)) as step:
        step.note = driver.ensure_disks(spec, cancel)
    if spec.config_drive:
        with journal.step("create_config_drive"):
            driver.ensure_config_drive(spec, config_drive(parts, work, spec, vifs, devices))


def config_drive(
    parts: Parts, work: Work, spec: BuildSpec, vifs: list[Vif], devices: Sequence[BlockDevice] = ()
) -> GuestMetadata:
    """What the config drive tells. ``devices``: disks that were asked for one by one."""
    metadata = guest_metadata(spec, vifs, work.availability_zone, spec.metadata)
    if devices:
        metadata = with_disks(metadata, devices)
    own = vendor_data.static(parts.config.api), vendor_data.dynamic(parts.config.api, metadata)
    plug = parts.network.plug_kind
    return structs.replace(metadata, vendor_data=own[0], vendor_data_dynamic=own[1], plug=plug)


def _plug_vifs(parts: Parts, spec: BuildSpec, vifs: list[Vif], journal: Journal) -> None:
    if not vifs:
        return

    def unplug() -> None:
        parts.driver.destroy(spec.server_id)  # before its taps go away
        for vif in vifs:
            parts.network.unplug(vif.port_id)

    with journal.step("plug_vifs", undo=unplug):
        for vif in vifs:
            parts.network.plug(vif)


def _commit(parts: Parts, work: Work, journal: Journal) -> None:
    """No guest runs before the database agreed (invariant 6)."""
    parts.faults.reach("build.commit.before")
    message = Activate(
        host=parts.host, operation_id=work.operation_id, epoch=work.epoch, steps=journal.untold()
    )
    journal.ask("activate", message, Nothing)
    parts.faults.reach("build.commit.after")


def _let_run(parts: Parts, work: Work, journal: Journal) -> PowerState:
    with journal.after_commit("wait_for_boot"):
        parts.driver.resume_build(work.server_id)
        parts.driver.wait_for_running(work.server_id, BOOT_TIMEOUT)
    return PowerState.RUNNING


def with_secrets(work: Work) -> BuildSpec:
    """The stored spec has no password in it; the operation brings it for the time of the build."""
    return structs.replace(work.spec, admin_password=work.payload.get("admin_password"))
