"""A volume in the document of a domain: how it is reached, and what is not said there."""

from __future__ import annotations

import uuid
from xml.etree import ElementTree as ET

import pytest

from kilonova.domain.block_devices import AttachedVolume
from kilonova.domain.messages import BlockDevices
from kilonova.domain.volumes import Connection, IscsiConnection, RbdConnection
from kilonova.virt.libvirt.xml.volume import VolumeDevice, device

VOLUME = str(uuid.uuid4())
RBD = RbdConnection(
    pool="volumes", image=f"volume-{VOLUME}", monitors=["192.0.2.1:6789"], user="cinder", fsid="f"
)
ISCSI = IscsiConnection(
    portal="192.0.2.2:3260", iqn=f"iqn.x:volume-{VOLUME}", lun=1, username=VOLUME, password="of nobody's"
)


def disk(connection: Connection, *, shareable: bool = False) -> ET.Element:
    volume = AttachedVolume(
        volume_id=VOLUME, connection=connection, device_name="vdb", disk_bus="virtio", shareable=shareable
    )
    return device(VolumeDevice(volume=volume, secret=str(uuid.uuid4()), initiator="iqn.x:host"), "vdb")


@pytest.mark.parametrize("connection", [RBD, ISCSI])
def test_what_others_may_write_to_is_not_kept_in_memory(connection: Connection) -> None:
    """RBD's cache is each QEMU's own: another guest's writes would not be seen."""
    shared = disk(connection, shareable=True)
    driver = shared.find("driver")
    assert driver is not None
    assert driver.get("cache") == "none"
    assert shared.find("shareable") is not None
    assert disk(connection).find("shareable") is None


def test_a_password_is_in_no_document_and_in_nothing_that_is_printed() -> None:
    assert "of nobody's" not in ET.tostring(disk(ISCSI), encoding="unicode")
    volume = AttachedVolume(volume_id=VOLUME, connection=ISCSI, device_name="vdb", disk_bus="virtio")
    said = repr(BlockDevices(volumes=[volume]))
    assert VOLUME in said
    assert "of nobody's" not in said
