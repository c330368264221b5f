"""The domain's document, and the wishes that shape it."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree as ET

import msgspec
import pytest

from kilonova.domain.errors import BuildAborted, NotFound
from kilonova.domain.network import Vif
from kilonova.domain.servers import BuildSpec, DevicePlace, Flavor, ImageRef
from kilonova.virt.libvirt.disk.devices import own_devices, rescue_devices
from kilonova.virt.libvirt.disk.qcow2 import Qcow2
from kilonova.virt.libvirt.folder import Folder, domain_name, server_of
from kilonova.virt.libvirt.hardware import Hardware, hardware
from kilonova.virt.libvirt.images import ImageCache
from kilonova.virt.libvirt.rescue import way_of_rescue
from kilonova.virt.libvirt.xml import interface, places
from kilonova.virt.libvirt.xml.domain import domain

SERVER_ID = "6c84fb90-12c4-11e1-840d-7b25c5ee775a"


def make_spec(
    properties: dict[str, str] | None = None, extra_specs: dict[str, str] | None = None
) -> BuildSpec:
    return BuildSpec(
        server_id=SERVER_ID,
        name="<name>&\"'",
        hostname="n",
        project_id="p",
        user_id="u",
        flavor=Flavor(id="1", name="f", vcpus=3, memory_mb=256, root_gb=1, extra_specs=extra_specs or {}),
        image=ImageRef(id=str(uuid.uuid4()), disk_format="raw", size=1, properties=properties or {}),
    )


def document(
    tmp_path: Path,
    *,
    files: tuple[str, ...] = ("disk",),
    vifs: list[Vif] | None = None,
    wishes: dict[str, str] | None = None,
    virt_type: str = "qemu",
    boot_cd: Path | None = None,
) -> ET.Element:
    folder = Folder(tmp_path)
    folder.make()
    instance = folder.instance(SERVER_ID)
    instance.make()
    for name in files:
        (instance.path / name).touch()
    spec = make_spec(wishes)
    disks = Qcow2(folder, ImageCache(folder, cast(Any, None)))
    return ET.fromstring(
        domain(
            spec,
            vifs or [],
            instance,
            hardware(spec),
            disks=list(own_devices(disks, instance, hardware(spec), "none", boot_cd)),
            virt_type=virt_type,
            agent_socket=Path("/short/ga"),
        )
    )


def targets(root: ET.Element) -> list[tuple[str | None, str | None]]:
    return [
        (disk.get("device"), target.get("dev"))
        for disk in root.iterfind("./devices/disk")
        if (target := disk.find("target")) is not None
    ]


def test_the_machine(tmp_path: Path) -> None:
    root = document(tmp_path)
    assert root.get("type") == "qemu"
    assert root.findtext("uuid") == SERVER_ID
    assert root.findtext("name") == f"instance-{SERVER_ID}"
    assert root.findtext("vcpu") == "3"
    assert (root.findtext("memory"), root.find("memory").get("unit")) == ("256", "MiB")  # type: ignore[union-attr]
    assert root.findtext("./cpu/model") == "qemu64"
    entries = {entry.get("name"): entry.text for entry in root.iterfind("./sysinfo/system/entry")}
    assert entries["product"] == "OpenStack Nova"
    assert entries["manufacturer"] == "OpenStack Foundation"
    assert entries["serial"] == entries["uuid"] == SERVER_ID
    graphics = root.find("./devices/graphics")
    assert graphics is not None
    assert (graphics.get("type"), graphics.get("listen"), graphics.get("autoport")) == (
        "vnc",
        "127.0.0.1",
        "yes",
    )


def test_kvm_gets_the_hosts_cpu(tmp_path: Path) -> None:
    root = document(tmp_path, virt_type="kvm")
    assert root.get("type") == "kvm"
    assert root.find("cpu").get("mode") == "host-model"  # type: ignore[union-attr]


def test_disks_come_in_order(tmp_path: Path) -> None:
    root = document(tmp_path, files=("disk", "disk.eph0", "disk.swap", "disk.config"))
    assert targets(root) == [("disk", "vda"), ("disk", "vdb"), ("disk", "vdc"), ("cdrom", "hda")]
    formats = [driver.get("type") for driver in root.iterfind("./devices/disk/driver")]
    assert formats == ["qcow2", "raw", "raw", "raw"]
    assert [boot.get("order") for boot in root.iterfind("./devices/disk/boot")] == ["1"]


def test_an_iso_boots_first(tmp_path: Path) -> None:
    root = document(tmp_path, files=("disk.config",), boot_cd=tmp_path / "image")
    assert targets(root) == [("cdrom", "hda"), ("cdrom", "hdb")]


@pytest.mark.parametrize(
    ("properties", "disk_format", "expected", "boots"),
    [
        ({}, "raw", [("disk", "vda"), ("disk", "vdb"), ("cdrom", "hda")], "vda"),
        ({}, "iso", [("disk", "vda"), ("disk", "vdb"), ("cdrom", "hda"), ("cdrom", "hdb")], "hda"),
        (
            {"hw_rescue_device": "disk", "hw_rescue_bus": "scsi"},
            "raw",
            [("disk", "vda"), ("disk", "vdb"), ("disk", "sda"), ("cdrom", "hda")],
            "sda",
        ),
    ],
)
def test_a_rescued_machine(
    tmp_path: Path,
    properties: dict[str, str],
    disk_format: str,
    expected: list[tuple[str, str]],
    boots: str,
) -> None:
    folder = Folder(tmp_path)
    folder.make()
    instance = folder.instance(SERVER_ID)
    instance.make()
    for name in ("disk", "disk.eph0", "disk.rescue", "disk.config", "disk.config.rescue"):
        (instance.path / name).touch()
    spec = make_spec()
    image = ImageRef(id=str(uuid.uuid4()), disk_format=disk_format, size=1, properties=properties)
    how = way_of_rescue(image, hardware(spec))
    disks = Qcow2(folder, ImageCache(folder, cast(Any, None)))
    found = list(rescue_devices(disks, instance, hardware(spec), "none", how, tmp_path / "image"))
    text = domain(
        spec, [], instance, hardware(spec), disks=found, virt_type="qemu", agent_socket=Path("/short/ga")
    )
    root = ET.fromstring(text)
    assert targets(root) == expected
    (first,) = [one for one in root.iterfind("./devices/disk") if one.find("boot") is not None]
    assert first.find("target").get("dev") == boots  # type: ignore[union-attr]
    sources = [source.get("file") for source in root.iterfind("./devices/disk/source")]
    assert str(instance.path / "disk.config.rescue") in sources
    assert str(instance.path / "disk.config") not in sources


@pytest.mark.parametrize(
    "properties",
    [
        {"hw_rescue_device": "floppy"},
        {"hw_rescue_bus": "usb"},
        {"hw_rescue_device": "cdrom", "hw_rescue_bus": "virtio"},
    ],
)
def test_a_rescue_that_cannot_be(properties: dict[str, str]) -> None:
    image = ImageRef(id=str(uuid.uuid4()), disk_format="raw", size=1, properties=properties)
    with pytest.raises(BuildAborted, match="hw_rescue"):
        way_of_rescue(image, Hardware())


def test_a_nic_uses_the_tap_that_is_there(tmp_path: Path) -> None:
    vif = Vif(port_id=str(uuid.uuid4()), network_id=str(uuid.uuid4()), mac="fa:16:3e:00:00:01", mtu=1450)
    nic = document(tmp_path, vifs=[vif]).find("./devices/interface")
    assert nic is not None
    found = {child.tag: child.attrib for child in nic}
    assert found == {
        "mac": {"address": vif.mac},
        "target": {"dev": vif.tap, "managed": "no"},
        "model": {"type": "virtio"},
        "mtu": {"size": "1450"},
    }


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({}, Hardware()),
        ({"hw_disk_bus": "ide", "hw_vif_model": "e1000"}, Hardware(disk_bus="ide", vif_model="e1000")),
        ({"hw_machine_type": "q35"}, Hardware(machine="q35", cdrom_bus="sata")),
        ({"hw_video_model": "vga"}, Hardware(video_model="vga")),
        ({"os_distro": "debian", "os_admin_user": "debian", "os_glance_stage_host": "x"}, Hardware()),
        ({"img_hv_type": "kvm", "hw_architecture": "x86_64", "my_own": "1"}, Hardware()),
        ({"hw_cpu_policy": "Shared", "hw_tpm_version": "", "hw_qemu_guest_agent": "Yes"}, Hardware()),
        ({"os_secure_boot": "optional", "hw_vif_multiqueue_enabled": "0"}, Hardware()),
    ],
)
def test_wishes_are_honoured(wishes: dict[str, str], expected: Hardware) -> None:
    assert hardware(make_spec(wishes)) == expected


@pytest.mark.parametrize(
    "wishes",
    [
        {"hw_disk_bus": "floppy"},
        {"hw_disk_bus": "virtio'/><evil"},
        {"hw_vif_model": "sriov"},
        {"hw_firmware_type": "uefi"},
        {"hw_machine_type": "microvm"},
        {"hw_machine_type": "q35", "hw_disk_bus": "ide"},
        {"hw_tpm_version": "2.0"},
        {"hw_cpu_policy": "dedicated"},
        {"hw_mem_page_size": "large"},
        {"hw_numa_cpus.0": "0,1"},
        {"hw_of_next_year": "1"},
        {"os_secure_boot": "required"},
        {"os_command_line": "quiet"},
        {"img_block_device_mapping": "[]"},
        {"img_hv_requested_version": ">=6.0"},
    ],
)
def test_wishes_that_cannot_be_met_are_refused(wishes: dict[str, str]) -> None:
    with pytest.raises(BuildAborted):
        hardware(make_spec(wishes))


def test_a_refusal_names_every_wish() -> None:
    with pytest.raises(BuildAborted, match=r"hw_cpu_policy='dedicated', hw_tpm_version='2\.0'$"):
        hardware(make_spec({"hw_tpm_version": "2.0", "hw_disk_bus": "ide", "hw_cpu_policy": "dedicated"}))


def test_a_flavors_promise_is_kept_or_refused() -> None:
    assert not hardware(make_spec(extra_specs={"hw_rng:allowed": "False"})).rng
    hardware(make_spec(extra_specs={"trait:CUSTOM_X": "required", "my:own": "1"}))
    with pytest.raises(BuildAborted, match="hw:cpu_policy"):
        hardware(make_spec(extra_specs={"hw:cpu_policy": "dedicated"}))


def test_names_and_servers_are_one_to_one() -> None:
    assert server_of(domain_name(SERVER_ID)) == SERVER_ID
    for foreign in ("instance-00000001", "vm1", "instance-", f"x{domain_name(SERVER_ID)}"):
        assert server_of(foreign) is None
    for bad in (
        "",
        "..",
        SERVER_ID.upper(),
        SERVER_ID.replace("-", ""),
        f"{SERVER_ID}/..",
        "{" + SERVER_ID + "}",
    ):
        with pytest.raises(NotFound):
            domain_name(bad)


def test_a_folder_knows_its_servers_and_no_strangers(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.make()
    folder.instance(SERVER_ID).make()
    (folder.instances / "lost+found").mkdir()
    assert folder.server_ids() == {SERVER_ID}
    folder.remove(SERVER_ID)
    folder.remove(SERVER_ID)
    assert folder.server_ids() == set()


def test_a_spec_without_image_has_plain_hardware() -> None:
    assert hardware(msgspec.structs.replace(make_spec(), image=None)) == Hardware()


def test_a_q35_machine_has_ports_for_what_may_come(tmp_path: Path) -> None:
    def ports(wishes: dict[str, str], count: int) -> list[str | None]:
        folder = Folder(tmp_path)
        folder.make()
        instance = folder.instance(SERVER_ID)
        instance.make()
        spec = make_spec(wishes)
        root = ET.fromstring(
            domain(
                spec,
                [],
                instance,
                hardware(spec),
                disks=[],
                virt_type="qemu",
                agent_socket=Path("/short/ga"),
                pcie_ports=count,
            )
        )
        return [one.get("model") for one in root.iterfind("./devices/controller[@type='pci']")]

    assert ports({"hw_machine_type": "q35"}, 2) == ["pcie-root", "pcie-root-port", "pcie-root-port"]
    assert ports({"hw_machine_type": "q35"}, 0) == []
    assert ports({}, 2) == []


def test_the_link_of_a_nic(tmp_path: Path) -> None:
    vif = Vif(port_id="p" * 36, network_id="n" * 36, mac="fa:16:3e:00:00:01")
    down = msgspec.structs.replace(vif, admin_state_up=False)
    for one, up in ((vif, True), (down, False)):
        text = ET.tostring(document(tmp_path, vifs=[one]), encoding="unicode")
        assert interface.links(text) == {vif.tap: up}
        nic = interface.find(text, vif.tap)
        assert nic is not None
        for state in (True, False):
            (link,) = interface.with_link(nic, state).findall("link")
            assert link.get("state") == ("up" if state else "down")
    assert interface.find(ET.tostring(document(tmp_path), encoding="unicode"), vif.tap) is None


def test_where_devices_are() -> None:
    """A document as libvirt 9 has written it, with what does not matter left out."""
    document = """
      <domain><devices>
        <disk type='file' device='disk'>
          <target dev='vda' bus='virtio'/>
          <address type='pci' domain='0x0000' bus='0x00' slot='0x05' function='0x0'/>
        </disk>
        <disk type='network' device='disk'>
          <target dev='sdb' bus='scsi'/><serial>a-volume</serial>
          <address type='drive' controller='0' bus='0' target='0' unit='1'/>
        </disk>
        <disk type='file' device='cdrom'>
          <target dev='hda' bus='ide'/>
          <address type='drive' controller='0' bus='1' target='0' unit='0'/>
        </disk>
        <disk type='file' device='disk'>
          <target dev='sdc' bus='sata'/>
          <address type='drive' controller='0' bus='0' target='0' unit='2'/>
        </disk>
        <interface type='ethernet'>
          <mac address='fa:16:3e:00:00:01'/><target dev='tap1' managed='no'/>
          <address type='pci' domain='0x0000' bus='0x01' slot='0x1f' function='0x2'/>
        </interface>
        <interface type='ethernet'><mac address='fa:16:3e:00:00:02'/></interface>
        <rng model='virtio'>
          <address type='pci' domain='0x0000' bus='0x00' slot='0x08' function='0x0'/>
        </rng>
      </devices></domain>"""
    volume = DevicePlace(bus="scsi", address="0:0:0:1")
    assert places.of(document) == {
        "/dev/vda": DevicePlace(bus="pci", address="0000:00:05.0"),
        "/dev/sdb": volume,
        "a-volume": volume,
        "/dev/hda": DevicePlace(bus="ide", address="0:1:0:0"),
        "fa:16:3e:00:00:01": DevicePlace(bus="pci", address="0000:01:1f.2"),
    }
