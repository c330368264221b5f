"""What the control plane may rely on, whichever volume service is behind VolumeService."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.running import until
from tests.statements import sent
from tests.volume_store import Volumes

from kilonova.domain.context import RequestContext
from kilonova.domain.errors import (
    BadRequest,
    BuildAborted,
    Conflict,
    NotFound,
    QuotaExceeded,
    StaleEpoch,
)
from kilonova.domain.servers import ImageRef
from kilonova.domain.volumes import Connector, IscsiConnection
from kilonova.store import operations, volume_attachments, volumes
from kilonova.store.database import Database
from kilonova.store.schema.volumes import volume_messages
from kilonova.volume.base import NewVolume, VolumeService
from kilonova.volume.builtin.service import BuiltinVolumes


def user(project: str, *roles: str) -> RequestContext:
    return RequestContext(request_id="r", user_id="u", project_id=project, roles=frozenset(roles))


ALICE, BOB, ADMIN = user("alice", "member"), user("bob", "member"), user("admin", "admin")
HERE, THERE = Connector(host="here"), Connector(host="there")
IMAGE = ImageRef(
    id="3bdd1b0c-6f8a-4a25-93f5-7a8a1a7b6a01",
    name="cirros",
    disk_format="qcow2",
    size=1 << 20,
    virtual_size=1 << 30,
    min_ram=64,
    properties={"hw_disk_bus": "scsi"},
)


@pytest.fixture
def cloud(new_database: Callable[[], Database], tmp_path: Path) -> Iterator[Volumes]:
    made = Volumes(new_database(), tmp_path / "images").start()
    yield made
    made.close()


def new(**more: Any) -> NewVolume:
    return NewVolume(**({"id": str(uuid.uuid4()), "size_gb": 1} | more))


def make(cloud: Volumes, context: RequestContext = ALICE, **more: Any) -> str:
    """One that is there."""
    wanted = new(**more)
    cloud.service.create(context, [wanted])
    settled(cloud, wanted.id)
    return wanted.id


def settled(cloud: Volumes, *ids: str) -> None:
    until(lambda: not cloud.service.ready(ids).pending, 60, "volumes that are made")


def status(service: VolumeService, volume_id: str) -> str:
    return service.volume(ADMIN, volume_id).status


def gone(cloud: Volumes, volume_id: str) -> bool:
    return volume_id in cloud.service.ready([volume_id]).failed


def test_volumes_of_a_build_are_made_once(cloud: Volumes) -> None:
    blank, of_image = new(), new(size_gb=2, image=IMAGE)
    cloud.service.create(ALICE, [blank, of_image])
    cloud.service.create(ALICE, [blank, of_image])
    settled(cloud, blank.id, of_image.id)
    assert cloud.backend.made == {blank.id: (1, "zeros"), of_image.id: (2, f"image {IMAGE.id}")}
    view = cloud.service.volume(ALICE, of_image.id)
    assert (view.status, view.size_gb, view.bootable) == ("available", 2, True)
    assert view.image_metadata["image_id"] == IMAGE.id
    assert view.image_metadata["hw_disk_bus"] == "scsi"
    assert view.volume_type == "__DEFAULT__"
    assert not cloud.service.volume(ALICE, blank.id).bootable
    until(lambda: {word.id for word in cloud.told} == {blank.id, of_image.id}, 60, "word of both")


def test_a_volume_is_its_projects(cloud: Volumes) -> None:
    volume = make(cloud)
    with pytest.raises(NotFound):
        cloud.service.volume(BOB, volume)
    assert cloud.service.volume(ADMIN, volume).project_id == "alice"


def test_what_cannot_be_made_is_refused_before(cloud: Volumes) -> None:
    cloud.service.check_new(ALICE, None, [1] * 10)
    with pytest.raises(QuotaExceeded, match="volumes"):
        cloud.service.check_new(ALICE, None, [1] * 11)
    with pytest.raises(QuotaExceeded, match="gigabytes"):
        cloud.service.check_new(ALICE, None, [1001])
    with pytest.raises(BadRequest, match="gold"):
        cloud.service.check_new(ALICE, "gold", [1])


def test_of_a_request_all_are_begun_or_none(cloud: Volumes) -> None:
    wanted = [new(size_gb=500), new(size_gb=501)]
    with pytest.raises(QuotaExceeded):
        cloud.service.create(ALICE, wanted)
    cloud.backend.free = 3
    assert cloud.manager is not None
    cloud.manager.report()
    with pytest.raises(BuildAborted):
        cloud.service.create(ALICE, [new(size_gb=2), new(size_gb=2)])
    assert all(gone(cloud, one.id) for one in wanted)
    assert cloud.backend.made == {}


def test_one_that_failed_says_why(cloud: Volumes) -> None:
    cloud.backend.refuses = "ensure_volume"
    wanted = new()
    cloud.service.create(ALICE, [wanted])
    settled(cloud, wanted.id)
    assert cloud.service.ready([wanted.id]).failed == {wanted.id: "ensure_volume: no"}
    assert cloud.backend.made == {}


def test_an_attachment_from_promise_to_end(cloud: Volumes) -> None:
    service, volume, attachment = cloud.service, make(cloud), str(uuid.uuid4())
    service.reserve(ALICE, volume, "server", attachment)
    service.reserve(ALICE, volume, "server", attachment)
    assert status(service, volume) == "reserved"
    with pytest.raises(BadRequest, match="status must be available"):
        service.reserve(ALICE, volume, "another", str(uuid.uuid4()))
    connection = service.connect(attachment, HERE)
    assert isinstance(connection, IscsiConnection)
    assert connection.password == "secret"
    assert status(service, volume) == "attaching"
    service.complete(attachment, "/dev/vdb")
    assert status(service, volume) == "in-use"
    assert service.attached(["server", "other"]) == {"server": [attachment], "other": []}
    (held,) = service.held("server")
    assert (held.attachment_id, held.volume_id, held.size_gb) == (attachment, volume, 1)
    assert (held.multiattach, held.read_only) == (False, False)
    assert service.held("other") == []
    assert service.connection(attachment) == connection
    with cloud.db.read() as conn:
        record = volume_attachments.get(conn, attachment)
    assert record is not None
    assert "secret" not in str(record)
    service.begin_detaching(attachment)
    assert status(service, volume) == "detaching"
    service.roll_detaching(attachment)
    assert status(service, volume) == "in-use"
    service.begin_detaching(attachment)
    service.release(attachment)
    service.release(attachment)
    assert status(service, volume) == "available"
    until(lambda: not cloud.backend.ways, 60, "a host without its way")
    assert service.connection(attachment) is None


def test_what_is_not_attached_is_not_detached(cloud: Volumes) -> None:
    volume, attachment = make(cloud), str(uuid.uuid4())
    cloud.service.reserve(ALICE, volume, "server", attachment)
    with pytest.raises(Conflict):
        cloud.service.begin_detaching(attachment)
    with pytest.raises(NotFound):
        cloud.service.begin_detaching(str(uuid.uuid4()))


def test_a_host_keeps_its_way_while_another_server_there_has_the_volume(cloud: Volumes) -> None:
    with cloud.db.write() as conn:
        from kilonova.volume.builtin import types

        types.create(conn, "multi", None, True, {"multiattach": "<is> True"})
    volume = make(cloud, volume_type="multi")
    assert cloud.service.volume(ALICE, volume).multiattach
    first, second, third = (str(uuid.uuid4()) for _ in range(3))
    for attachment, where in ((first, HERE), (second, HERE), (third, THERE)):
        cloud.service.reserve(ALICE, volume, attachment, attachment)
        cloud.service.connect(attachment, where)
        cloud.service.complete(attachment, "/dev/vdb")
    cloud.service.release(first)
    cloud.service.release(third)
    until(lambda: cloud.backend.ways == {(volume, "here")}, 60, "one way less")
    assert status(cloud.service, volume) == "in-use"
    cloud.service.release(second)
    until(lambda: not cloud.backend.ways, 60, "no way")
    assert status(cloud.service, volume) == "available"


def test_the_last_one_may_take_the_volume_with_it(cloud: Volumes) -> None:
    volume, attachment = make(cloud), str(uuid.uuid4())
    cloud.service.reserve(ALICE, volume, "server", attachment)
    cloud.service.connect(attachment, HERE)
    cloud.service.release(attachment, delete_volume=True)
    until(lambda: gone(cloud, volume), 60, "a volume that is gone")
    assert cloud.backend.made == {}


@pytest.mark.parametrize("way", ["release", "discard"])
def test_a_volume_outlives_its_server_if_it_has_snapshots(cloud: Volumes, way: str) -> None:
    """They would be gone with it, and the volumes that are being made of them would never be."""
    service, volume, attachment, snapshot = cloud.service, make(cloud), *(str(uuid.uuid4()) for _ in "as")
    service.create_snapshot(ALICE, volume, snapshot, "s")
    until(lambda: not service.snapshots_ready([snapshot]).pending, 60, "a snapshot")
    if way == "release":
        service.reserve(ALICE, volume, "server", attachment)
        service.connect(attachment, HERE)
        service.release(attachment, delete_volume=True)
        until(lambda: not cloud.backend.ways, 60, "a host without its way")
    else:
        service.discard(volume)
    assert status(service, volume) == "available"
    with cloud.db.read() as conn:
        (told,) = conn.execute(volume_messages.select()).all()
    assert (told.resource_uuid, "snapshots" in told.text) == (volume, True)
    assert cloud.backend.made[make(cloud, snapshot_id=snapshot)] == (1, "zeros")


def test_a_volume_outlives_its_server_while_it_is_copied(cloud: Volumes) -> None:
    volume = make(cloud)
    cloud.backend.hold = "ensure_volume"
    copy = new(source_volid=volume)
    cloud.service.create(ALICE, [copy])
    assert cloud.backend.held.wait(30)
    cloud.service.discard(volume)
    cloud.backend.go.set()
    settled(cloud, copy.id)
    assert {status(cloud.service, one) for one in (volume, copy.id)} == {"available"}


def test_what_a_build_leaves_is_discarded_made_or_not(cloud: Volumes) -> None:
    cloud.backend.hold = "ensure_volume"
    wanted = new()
    cloud.service.create(ALICE, [wanted])
    assert cloud.backend.held.wait(30)
    cloud.service.discard(wanted.id)
    until(lambda: gone(cloud, wanted.id), 60, "a volume that is gone")
    assert cloud.backend.made == {}
    cloud.service.discard(wanted.id)


def test_a_snapshot_and_a_volume_of_it(cloud: Volumes) -> None:
    volume, snapshot = make(cloud, size_gb=2, image=IMAGE), str(uuid.uuid4())
    cloud.service.reserve(ALICE, volume, "server", str(uuid.uuid4()))
    cloud.service.create_snapshot(ALICE, volume, snapshot, "s")
    cloud.service.create_snapshot(ALICE, volume, snapshot, "s")
    until(lambda: not cloud.service.snapshots_ready([snapshot]).pending, 60, "a snapshot")
    view = cloud.service.snapshot(ALICE, snapshot)
    assert (view.size_gb, view.bootable, view.image_metadata["image_id"]) == (2, True, IMAGE.id)
    with pytest.raises(BadRequest, match="smaller than the snapshot size"):
        cloud.service.create(ALICE, [new(size_gb=1, snapshot_id=snapshot)])
    clone = make(cloud, size_gb=3, snapshot_id=snapshot)
    assert cloud.backend.made[clone] == (3, f"image {IMAGE.id}")


def test_a_snapshot_whose_volume_is_gone_is_not_to_be_had(cloud: Volumes) -> None:
    """Not that it should be: once, a server's delete took the volume alone."""
    volume, snapshot = make(cloud), str(uuid.uuid4())
    cloud.service.create_snapshot(ALICE, volume, snapshot, "s")
    until(lambda: not cloud.service.snapshots_ready([snapshot]).pending, 60, "a snapshot")
    with cloud.db.write() as conn:
        volumes.delete(conn, volume)
    with pytest.raises(NotFound, match=snapshot):
        cloud.service.snapshot(ALICE, snapshot)
    with pytest.raises(NotFound, match=snapshot):
        cloud.service.create(ALICE, [new(snapshot_id=snapshot)])


def test_a_way_is_closed_when_another_host_has_the_attachment(cloud: Volumes) -> None:
    """As when a build goes elsewhere; the same host under another name of its initiator is another too."""
    volume, attachment = make(cloud), str(uuid.uuid4())
    cloud.service.reserve(ALICE, volume, "server", attachment)
    for host, initiator in (("here", "iqn.a"), ("here", "iqn.b"), ("there", "iqn.c"), ("there", "iqn.c")):
        cloud.service.connect(attachment, Connector(host=host, initiator=initiator))
        wanted = {(volume, host, initiator)}
        until(lambda wanted=wanted: cloud.backend.let_in == wanted, 60, "the way of one host")
    cloud.service.connect(attachment, Connector(host="there", initiator="iqn.c", ip="10.0.0.9"))
    cloud.service.release(attachment)
    until(lambda: not cloud.backend.let_in, 60, "no way")


def test_a_volume_is_locked_after_the_operation_and_before_the_server(cloud: Volumes) -> None:
    """Who locks them in another order may wait for somebody who waits for him."""
    volume, attachment = make(cloud), str(uuid.uuid4())
    cloud.service.reserve(ALICE, volume, "server", attachment)
    with sent(cloud.db) as said:
        cloud.service.connect(attachment, HERE, lambda: said.append("first"), lambda: said.append("last"))
    between = [" ".join(one.split()) for one in said[said.index("first") : said.index("last")]]
    assert any("FROM volumes" in one for one in between)
    assert not any(one.startswith("UPDATE") for one in between)


@pytest.mark.parametrize("check", ["check", "check_server"])
def test_a_host_that_may_not_have_it_any_more_changes_nothing(cloud: Volumes, check: str) -> None:
    """It asked late: the server is elsewhere by now."""
    volume, attachment = make(cloud), str(uuid.uuid4())
    cloud.service.reserve(ALICE, volume, "server", attachment)
    cloud.service.connect(attachment, HERE)

    def moved_on() -> None:
        raise StaleEpoch("the server is elsewhere")

    with pytest.raises(StaleEpoch):
        cloud.service.connect(attachment, THERE, **{check: moved_on})
    with cloud.db.read() as conn:
        record = volume_attachments.get(conn, attachment)
    assert record is not None
    assert record.host == "here"
    assert cloud.backend.ways == {(volume, "here")}


@pytest.mark.parametrize("point", ["record", "call"])
def test_who_loses_the_volume_while_its_way_is_made_has_no_way(cloud: Volumes, point: str) -> None:
    volume, attachment = make(cloud), str(uuid.uuid4())

    def reach(there: str) -> None:
        if there == f"volume_connect.{point}.after":
            cloud.service.release(attachment)
            until(idle, 60, "no operation")

    def idle() -> bool:
        with cloud.db.read() as conn:
            return operations.open_of_server(conn, attachment) is None

    service = BuiltinVolumes(cloud.db, cloud.bus, cloud.config, reach)
    service.reserve(ALICE, volume, "server", attachment)
    with pytest.raises(NotFound):
        service.connect(attachment, HERE)
    until(lambda: not cloud.backend.ways, 60, "no way")


def test_who_is_attached_to_a_volume_keeps_it_whatever_is_done_to_its_content(cloud: Volumes) -> None:
    """An error forgets what it was before; an image that comes after that does not make it free."""
    service, volume, attachment = cloud.service, make(cloud), str(uuid.uuid4())
    service.reserve(ALICE, volume, "server", attachment)
    service.connect(attachment, HERE)
    service.complete(attachment, "/dev/vdb")
    cloud.backend.refuses = "ensure_volume"
    service.reimage(ALICE, volume, IMAGE)
    until(lambda: status(service, volume) == "error", 60, "an error")
    cloud.backend.refuses = ""
    service.reimage(ALICE, volume, IMAGE)
    until(lambda: status(service, volume) == "in-use", 60, "what its attachment says")
    with cloud.db.write() as conn:
        volumes.change(conn, volume, status="available")  # as an admin may
    with pytest.raises(BadRequest, match="attached"):
        service.reserve(ALICE, volume, "another", str(uuid.uuid4()))


def test_a_volume_gets_another_image(cloud: Volumes) -> None:
    volume = make(cloud, size_gb=2)
    cloud.service.reserve(ALICE, volume, "server", str(uuid.uuid4()))
    cloud.service.reimage(ALICE, volume, IMAGE)
    until(lambda: status(cloud.service, volume) == "reserved", 60, "the status of before")
    assert cloud.backend.made == {volume: (2, f"image {IMAGE.id}")}
    assert cloud.service.volume(ALICE, volume).bootable
