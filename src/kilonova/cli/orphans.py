"""``kilonova doctor --orphans``: what lies in stores and on this machine's hosts, and no record explains.

Looks, and removes nothing. A store is listed, then the records are read, then it is listed once more: what is
being made has a record before it exists, and what is being deleted is gone when it is looked for again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple
from uuid import UUID

import click
import msgspec
import sqlalchemy as sa

from kilonova import config
from kilonova.cli.db import opened
from kilonova.cli.parts import volumes
from kilonova.config import Config, Image, Libvirt
from kilonova.domain.errors import KilonovaError, NotFound
from kilonova.store import orphans as records
from kilonova.store.database import Database
from kilonova.volume.base import Backend

Known = Callable[[sa.Connection, Collection[str]], set[str]]


class Orphan(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that nobody owns; or a place that could not be looked at: then ``problem`` says why."""

    kind: str
    place: str
    id: str = ""
    problem: str = ""

    def __str__(self) -> str:
        return f"{self.kind} in {self.place}: {self.id or self.problem}"


class _Place(NamedTuple):
    """Where things of a kind are. ``ids``: what is there now."""

    kind: str
    place: str
    ids: Callable[[], set[str]]
    known: Known


def find(options: Config, db: Database, state: Path, backends: dict[str, Backend]) -> list[Orphan]:
    """All of them, kind by kind. ``backends``: of volumes, by name."""
    found: list[Orphan] = []
    with ExitStack() as closing:
        for place in _places(options, state, backends, closing):
            try:
                found += _orphans(place, db)
            except (KilonovaError, OSError) as error:
                found.append(Orphan(kind=place.kind, place=place.place, problem=str(error)))
    with db.read() as conn:
        found += [Orphan(kind=kind, place="the database", id=of) for kind, of in records.unowned(conn)]
    return found


def listed(state: Path | None, config_file: Path | None) -> list[Orphan]:
    """All of them, as that configuration has it. ClickException: the records cannot be read."""
    options = config.load(config_file)
    folder = (state or Path(options.state)).absolute()
    with opened(state, config_file) as db, ExitStack() as closing:
        places = volumes.open_places(options, _NoImages(), folder, closing)
        return find(options, db, folder, {name: place.backend for name, place in places.items()})


def show(state: Path | None, config_file: Path | None, as_json: bool) -> int:
    """Print them: 0 if there are none."""
    found = listed(state, config_file)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(found), indent=2))
    else:
        for one in found:
            click.echo(one)
        click.echo(f"{len(found)} found")
    return 1 if found else 0


class _NoImages:
    """Nothing is made here."""

    def open(self, image_id: str) -> BinaryIO:
        raise NotFound(f"image {image_id} is not looked for")


def _orphans(place: _Place, db: Database) -> list[Orphan]:
    there = place.ids()
    with db.read() as conn:
        unknown = there - place.known(conn, there)
    if unknown:
        unknown &= place.ids()
    return [Orphan(kind=place.kind, place=place.place, id=ident) for ident in sorted(unknown)]


def _places(
    options: Config, state: Path, backends: dict[str, Backend], closing: ExitStack
) -> Iterator[_Place]:
    for name, backend in backends.items():
        yield _Place("volume", name, backend.volumes, partial(_at_backend, backends, backend))
        yield _Place("snapshot", name, partial(_keys, backend.snapshots), records.known_snapshots)
        yield _Place("export of a volume", name, backend.exports, records.known_exports)
    folder = Path(options.image.filesystem_store_datadir or state / "images")
    yield _Place("image", str(folder), partial(_files, folder), records.known_images)
    staging = folder / "staging"
    yield _Place("image on its way", str(staging), partial(_files, staging), records.known_uploads)
    if options.image.backend == "rbd":
        yield _images_in_ceph(options.image, closing)
    if options.libvirt.images_type == "rbd":
        yield _disks_in_ceph(options.libvirt, closing)
    for host in sorted(path for path in (state / "hosts").glob("*") if path.is_dir()):
        known = partial(_on_host, host.name)
        yield _Place("disks of a server", str(host), partial(_files, host / "instances"), known)


def _keys(listed: Callable[[], dict[str, str]]) -> set[str]:
    return set(listed())


def _at_backend(
    backends: dict[str, Backend], backend: Backend, conn: sa.Connection, ids: Collection[str]
) -> set[str]:
    """By whichever name: two backends may be one place."""
    names = [name for name, one in backends.items() if one.place() == backend.place()]
    return {known for name in names for known in records.known_volumes(conn, name, ids)}


def _on_host(host: str | None, conn: sa.Connection, ids: Collection[str]) -> set[str]:
    return records.known_servers(conn, host, ids)


def _files(folder: Path) -> set[str]:
    """Ids that names in a folder begin with: of what is whole, and of what is being made."""
    if not folder.exists():
        return set()
    return _ids(path.name.partition(".")[0] for path in folder.iterdir())


def _ids(names: Iterator[str]) -> set[str]:
    found = set()
    for name in names:
        try:
            if str(UUID(name)) == name:
                found.add(name)
        except ValueError:
            continue
    return found


def _images_in_ceph(options: Image, closing: ExitStack) -> _Place:
    from kilonova.rbd import Cluster

    cluster = Cluster(Path(options.rbd_store_ceph_conf), options.rbd_store_user)
    closing.callback(cluster.close)
    pool = cluster.pool(options.rbd_store_pool)

    def listed() -> set[str]:
        return _ids(iter(pool.names() | pool.trashed()))

    return _Place("image", f"Ceph's pool {pool.name}", listed, records.known_images)


def _disks_in_ceph(options: Libvirt, closing: ExitStack) -> _Place:
    """Of all hosts: which of them a server is on, its record says."""
    from kilonova.rbd import Cluster

    cluster = Cluster(Path(options.images_rbd_ceph_conf), options.rbd_user)
    closing.callback(cluster.close)
    pool = cluster.pool(options.images_rbd_pool)

    def listed() -> set[str]:
        return _ids(name.partition("_")[0] for name in pool.names() | pool.trashed())

    return _Place("disks of a server", f"Ceph's pool {pool.name}", listed, partial(_on_host, None))
