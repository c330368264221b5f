"""rescue and unrescue: a guest boots from another disk for a while, with its own beside it."""

from __future__ import annotations

from kilonova.cancel import Cancel
from kilonova.compute.build import config_drive, with_secrets
from kilonova.compute.journal import Journal
from kilonova.compute.parts import Parts
from kilonova.compute.server_volumes import disks_of, volumes_of
from kilonova.domain import codec
from kilonova.domain.errors import NotFound
from kilonova.domain.messages import Work
from kilonova.domain.servers import ImageRef, PowerState

_SHUTDOWN_TIMEOUT = 60.0


def rescue(parts: Parts, work: Work, journal: Journal, cancel: Cancel) -> PowerState:
    driver, spec, vifs = parts.driver, with_secrets(work), work.vifs
    image = codec.convert(work.payload["image"], ImageRef)
    if driver.guest(spec.server_id) is None:
        raise NotFound(f"Instance {work.server_id} has no guest on this host.")
    with journal.step("fetch_image"):
        driver.cache_image(image, cancel)
    with journal.step("power_off"):
        driver.power_off(spec.server_id, _SHUTDOWN_TIMEOUT, cancel)
    with journal.step("rescue"):
        for vif in vifs:
            parts.network.plug(vif)
        disks = disks_of(parts, work)
        metadata = config_drive(parts, work, spec, vifs, disks.devices) if spec.config_drive else None
        driver.rescue(spec, image, vifs, metadata, cancel, disks.volumes)
    return PowerState.RUNNING


def unrescue(parts: Parts, work: Work, journal: Journal, cancel: Cancel) -> PowerState:
    driver, spec, vifs = parts.driver, work.spec, work.vifs
    with journal.step("unrescue"):
        for vif in vifs:
            parts.network.plug(vif)
        driver.unrescue(spec, vifs, volumes_of(parts, work))
    return PowerState.RUNNING
