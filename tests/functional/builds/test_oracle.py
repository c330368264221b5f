"""The oracle of all tests of failures sees what it should see, on every database."""

from __future__ import annotations

from contextlib import suppress

from tests.functional.builds.cloud import PATIENCE, Cloud
from tests.running import until

LIES = {
    "open operation stop": "UPDATE operations SET state = 'open', kind = 'stop'",
    "server {id} in active/deleting": "UPDATE servers SET task_state = 'deleting'",
    "server {id} in building/": "UPDATE servers SET vm_state = 'building'",
    "ERROR without fault": "UPDATE servers SET vm_state = 'error'",
    "claim of no server": "UPDATE claims SET server_id = 'x'",
    "no claim of {id}": "DELETE FROM claims",
    "counts vcpus_used wrong": "UPDATE hosts SET vcpus_used = 7",
    "counts memory_mb_used wrong": "UPDATE hosts SET memory_mb_used = 7",
    "counts disk_gb_used wrong": "UPDATE hosts SET disk_gb_used = 7",
    "counts servers wrong": "UPDATE hosts SET servers = 7",
    "usage of": "UPDATE project_usage SET instances = 7",
    "port of no server": "UPDATE ports SET device_id = 'x'",
    "is elsewhere than its server": "UPDATE ports SET host = 'x'",
    "step without an end: create_disks": "UPDATE steps SET finished_at = NULL WHERE name = 'create_disks'",
}


class Undone(Exception):
    """A transaction shall leave nothing."""


def test_every_lie_is_seen(cloud: Cloud) -> None:
    server_id = cloud.active(cloud.make_network())
    until(lambda: cloud.unexplained() == [], PATIENCE, "all to be explained")
    for said, lie in LIES.items():
        with suppress(Undone), cloud.db.write():
            cloud.sql(lie)
            found = cloud.unexplained()
            assert any(said.format(id=server_id) in line for line in found), (said, found)
            raise Undone
    assert cloud.unexplained() == []
