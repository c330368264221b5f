"""rebuild: the server's own disks are made anew, of another image or the same; its NICs and volumes stay. A
volume that it boots from gets the image, where that was asked for.

The image is fetched first: one that is bad costs the server nothing. From there on a rebuild that was cut off
begins again with nothing: half of the old disks is no server.
"""

from __future__ import annotations

from kilonova.cancel import Cancel
from kilonova.compute.build import BOOT_TIMEOUT, config_drive, with_secrets
from kilonova.compute.journal import Journal
from kilonova.compute.parts import Parts
from kilonova.compute.server_volumes import disks_of, until_there
from kilonova.domain.messages import BlockDevices, OperationRef, Work
from kilonova.domain.servers import PowerState, TaskState, VmState


def rebuild(parts: Parts, work: Work, journal: Journal, cancel: Cancel) -> PowerState:
    """Do it; the guest's power state after: off, if it was off before."""
    driver, spec, vifs = parts.driver, with_secrets(work), work.vifs
    with journal.step("fetch_image"):
        driver.ensure_base_image(spec, cancel)
    with journal.step("remove_guest", shows=TaskState.REBUILD_BLOCK_DEVICE_MAPPING):
        driver.destroy(spec.server_id)
    if "reimage" in work.payload:
        ref = OperationRef(host=parts.host, operation_id=work.operation_id, epoch=work.epoch)
        with journal.step("reimage_volume"):
            until_there(parts, lambda: journal.ask("reimage_root", ref, BlockDevices), cancel)
    with journal.step("create_disks", shows=TaskState.REBUILD_SPAWNING) as step:
        disks = disks_of(parts, work)
        step.note = driver.ensure_disks(spec, cancel)
    if spec.config_drive:
        with journal.step("create_config_drive"):
            driver.ensure_config_drive(spec, config_drive(parts, work, spec, vifs, disks.devices))
    if vifs:
        with journal.step("plug_vifs"):
            for vif in vifs:
                parts.network.plug(vif)
    with journal.step("create_domain"):
        driver.ensure_paused(spec, vifs, disks.volumes)
    if work.payload.get("goal") == VmState.STOPPED:
        with journal.step("power_off"):
            driver.power_off(spec.server_id, 0, cancel)
        return PowerState.SHUTDOWN
    # Told at once, so that it is asked for: no guest runs of a rebuild that moved on.
    with journal.step("wait_for_boot", shows=TaskState.REBUILD_SPAWNING):
        driver.resume_build(spec.server_id)
        driver.wait_for_running(spec.server_id, BOOT_TIMEOUT)
    return PowerState.RUNNING
