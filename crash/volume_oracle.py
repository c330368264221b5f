"""What must be true of volumes when a cluster is at rest, by the database, the store and the guests."""

from __future__ import annotations

from crash.cluster import Cluster


def disagreements(cluster: Cluster) -> list[str]:
    """What cannot be; empty when all is well."""
    return [*_files(cluster), *_guests(cluster), *_images(cluster)]


def _files(cluster: Cluster) -> list[str]:
    """Each volume and each snapshot has its file, and no other file is there. What failed may have none."""
    with cluster.database() as db:
        volumes = db.execute("SELECT id, status FROM volumes").fetchall()
        snapshots = db.execute("SELECT volume_id, id, status FROM volume_snapshots").fetchall()
    named = {f"volume-{volume}": status for volume, status in volumes}
    named |= {f"volume-{volume}.snapshot-{one}": status for volume, one, status in snapshots}
    there = cluster.volume_files()
    lost = {f"volume-{volume}" for volume in cluster.lost}
    wanted = {name for name, status in named.items() if not status.startswith("error")} - lost
    return [f"{name} is left in the store" for name in sorted(there - named.keys())] + [
        f"{name} is not in the store" for name in sorted(wanted - there)
    ]


def _guests(cluster: Cluster) -> list[str]:
    """Each guest has the volumes of its server's record."""
    with cluster.database() as db:
        query = "SELECT id, host FROM servers WHERE deleted_at IS NULL AND vm_state = 'active'"
        servers = db.execute(query).fetchall()
        query = "SELECT server_id, volume_id FROM block_device_mappings WHERE attachment_id IS NOT NULL"
        devices = db.execute(query).fetchall()
    wrong = []
    for server, host in servers:
        recorded = {volume for owner, volume in devices if owner == server}
        has = cluster.volumes_of_guest(host, server).keys()
        wrong += [f"the guest of {server} has volume {one}, its record not" for one in has - recorded]
        wrong += [f"the guest of {server} has not its volume {one}" for one in recorded - has]
    return wrong


def _images(cluster: Cluster) -> list[str]:
    """No image waits for its bytes for ever."""
    with cluster.database() as db:
        query = "SELECT id, status FROM images WHERE status IN ('queued', 'saving') AND deleted_at IS NULL"
        return [f"image {image} is {status}" for image, status in db.execute(query).fetchall()]
