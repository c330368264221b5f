"""shelve, shelveOffload and unshelve: a server becomes an image and leaves its host, and comes back on any.
One that boots from a volume is no image: its volumes wait for it.

Cut off anywhere they go on by running again: what has left is not asked for, once its image has its bytes.
"""

from __future__ import annotations

from msgspec import structs

from kilonova.cancel import Cancel
from kilonova.compute import delete, snapshot
from kilonova.compute.build import BOOT_TIMEOUT, config_drive
from kilonova.compute.journal import Journal
from kilonova.compute.parts import Parts
from kilonova.compute.refresh import Learn, learn_of_new
from kilonova.compute.server_volumes import disks_of, volumes_of
from kilonova.domain import codec
from kilonova.domain.messages import Work
from kilonova.domain.servers import ImageRef, PowerState, TaskState, VmState

_SHUTDOWN_TIMEOUT = 60.0


def shelve(parts: Parts, work: Work, journal: Journal, cancel: Cancel) -> PowerState:
    """Off, and an image unless its disk is a volume; gone from here if it is to leave at once."""
    driver = parts.driver
    if driver.guest(work.server_id) is not None:
        with journal.step("power_off"):
            driver.power_off(work.server_id, _SHUTDOWN_TIMEOUT, cancel)
    if "image_id" in work.payload:
        taking, uploading = TaskState.SHELVING_IMAGE_PENDING_UPLOAD, TaskState.SHELVING_IMAGE_UPLOADING
        snapshot.upload(parts, work, journal, cancel, taking, uploading)
    if work.payload["goal"] == VmState.SHELVED_OFFLOADED:
        return _leave(parts, work, journal)
    return PowerState.SHUTDOWN


def shelve_offload(parts: Parts, work: Work, journal: Journal, _cancel: Cancel) -> PowerState:
    return _leave(parts, work, journal)


def _leave(parts: Parts, work: Work, journal: Journal) -> PowerState:
    with journal.step("destroy", shows=TaskState.SHELVING_OFFLOADING):
        parts.driver.destroy(work.server_id)
    with journal.step("unplug_vifs"):
        delete.unplug_all(parts, work.server_id)
    return PowerState.NOSTATE


def unshelve(parts: Parts, work: Work, journal: Journal, cancel: Cancel, learn: Learn) -> PowerState:
    """Of a server that never left: started. Else built of its image, or around its volumes, on whatever host
    this is."""
    driver, spec, vifs = parts.driver, work.spec, work.vifs
    if "to_host" not in work.payload:
        with journal.step("power_on"):
            for vif in vifs:
                parts.network.plug(vif)
            driver.power_on(spec, vifs, volumes_of(parts, work))
        return PowerState.RUNNING
    whole = spec
    if work.payload["image"] is not None:
        whole = structs.replace(spec, image=codec.convert(work.payload["image"], ImageRef))
        with journal.step("fetch_image"):
            driver.ensure_base_image(whole, cancel)
    with journal.step("create_disks", undo=lambda: driver.destroy(spec.server_id)) as step:
        disks = disks_of(parts, work)
        step.note = driver.ensure_disks(whole, cancel)
    if spec.config_drive:
        with journal.step("create_config_drive"):
            driver.ensure_config_drive(spec, config_drive(parts, work, spec, vifs, disks.devices))
    if vifs:
        with journal.step("plug_vifs", undo=lambda: delete.remove(parts, spec.server_id)):
            learn_of_new(parts, learn, vifs)
            for vif in vifs:
                parts.network.plug(vif)
    with journal.step("create_domain"):
        driver.ensure_paused(spec, vifs, disks.volumes)
    # Told at once, so that it is asked for: no guest runs of an operation that moved on.
    with journal.step("wait_for_boot", shows=TaskState.UNSHELVING):
        driver.resume_build(spec.server_id)
        driver.wait_for_running(spec.server_id, BOOT_TIMEOUT)
    return PowerState.RUNNING
