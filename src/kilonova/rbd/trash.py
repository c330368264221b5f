"""Removing: what has clones goes to the trash, and out of it with the last of them.

A step only ever makes less of an image, in such an order that what a kill leaves is found again: by its name,
or in the trash. There only what this module put there is touched: it bears a mark, its own id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from kilonova.domain.errors import Conflict, NotFound, Unavailable
from kilonova.rbd import bindings

if TYPE_CHECKING:
    from kilonova.rbd.pool import Pool

_MARK = "kilonova.removed"
_USERS = 0
"""Namespace of the snapshots that have a name."""


class _Parent(NamedTuple):
    pool: str
    image_id: str


def remove(pool: Pool, name: str) -> None:
    """As Pool.remove."""
    try:
        image_id = _without_snapshots(pool, name)
    except NotFound:
        _remove_rest(pool, name)
        return
    with pool.cluster.translated(f"{pool.name}/{name}"):
        bindings.rbd().trash_move(pool.io(), name, 0)
    _purge(pool, image_id)


def _without_snapshots(pool: Pool, name: str) -> str:
    """It has none that has a name, and bears the mark: its id. NotFound, Conflict."""
    while True:
        with _opened(pool, name) as image:
            if len(list(image.watchers_list())) > 1:  # one is ours
                raise Conflict(f"{pool.name}/{name}: in use")
            snapshots = named_snapshots(image)
            protected = [one for one in snapshots if image.is_protected_snap(one)]
            if not protected:
                for snapshot in snapshots:
                    image.remove_snap(snapshot)
                image_id = image.id()
                image.metadata_set(_MARK, image_id)
                return image_id
        _unprotect(pool, name, protected)


def named_snapshots(image: bindings.RawImage) -> set[str]:
    return {name for _, name in snapshot_ids(image)}


def snapshot_ids(image: bindings.RawImage) -> list[tuple[int, str]]:
    """Of those that have a name."""
    return [(int(one["id"]), str(one["name"])) for one in image.list_snaps() if one["namespace"] == _USERS]


def remove_snapshot(pool: Pool, name: str, snapshot: str) -> None:
    """Unless it is not there. Conflict: clones of the old format hold it."""
    try:
        with _opened(pool, name) as image:
            there = snapshot in named_snapshots(image)
            if there and not image.is_protected_snap(snapshot):
                image.remove_snap(snapshot)
                return
        if there:
            _unprotect(pool, name, [snapshot])
            with _opened(pool, name) as image:
                image.remove_snap(snapshot)
    except NotFound:
        return


def _unprotect(pool: Pool, name: str, snapshots: Sequence[str]) -> None:
    """Nobody has the image open by the pool's own connection: that would be asked to do it."""
    what = f"{pool.name}/{name}"
    with pool.cluster.apart(pool.name) as io, bindings.translated(what):
        opened = bindings.image(io, name)
        with pool.cluster.closing.image(opened, what) as image:
            for snapshot in snapshots:
                image.unprotect_snap(snapshot)


def unneeded(pool: Pool) -> dict[str, str]:
    """What is in the trash and has no clones: id → the name that it had."""
    return {image_id: name for image_id, name in _trashed(pool).items() if _needless(pool, image_id)}


def _remove_rest(pool: Pool, name: str) -> None:
    """Of what cannot be opened: what a kill left in the directory, and in the trash."""
    with suppress(NotFound), pool.cluster.translated(f"{pool.name}/{name}"):
        bindings.rbd().remove(pool.io(), name)
    for image_id, had in unneeded(pool).items():
        try:
            _purge(pool, image_id)
        except Conflict as error:
            if had == name:
                raise Conflict(f"{pool.name}/{name}: in use") from error
            # Another removes it, or was killed in that and is not taken for dead yet: found again later.


def _purge(pool: Pool, image_id: str) -> None:
    """Remove an image from the trash, unless clones need it, and what it alone had kept there."""
    try:
        with _opened(pool, None, image_id=image_id, read_only=True) as image:
            if list(image.list_snaps()):
                return
            parent = _parent(image)
    except NotFound:
        parent = None  # a removal was cut short
    with suppress(NotFound), pool.cluster.translated(f"{pool.name}/{image_id}"):
        bindings.rbd().trash_remove(pool.io(), image_id, False)
    if parent is not None:
        _purge_parent(pool, parent)


def _purge_parent(pool: Pool, parent: _Parent) -> None:
    home = pool if parent.pool == pool.name else pool.cluster.pool(parent.pool)
    try:
        if parent.image_id in unneeded(home):
            _purge(home, parent.image_id)
    except Conflict:
        pass  # another one removes it
    except Unavailable:
        if home is pool:
            raise
        # The images' pool is closed to us: its store looks after it.


def _parent(image: bindings.RawImage) -> _Parent | None:
    try:
        spec = image.get_parent_image_spec()
    except Exception as error:
        if getattr(error, "errno", None) == 2:
            return None
        raise
    return _Parent(str(spec["pool_name"]), image.parent_id())


def _trashed(pool: Pool) -> dict[str, str]:
    with pool.cluster.translated(f"{pool.name}/trash"):
        return {str(one["id"]): str(one["name"]) for one in bindings.rbd().trash_list(pool.io())}


def _needless(pool: Pool, image_id: str) -> bool:
    """It was put there by this module, and nothing needs it."""
    try:
        with _opened(pool, None, image_id=image_id, read_only=True) as image:
            try:
                marked = image.metadata_get(_MARK) == image_id
            except KeyError:
                return False
            return marked and not list(image.list_snaps())
    except NotFound:
        return True  # a removal was cut short: there is no way back


@contextmanager
def _opened(pool: Pool, name: str | None, **options: object) -> Iterator[bindings.RawImage]:
    what = f"{pool.name}/{name or options.get('image_id')}"
    with pool.cluster.translated(what):
        opened = bindings.image(pool.io(), name, **options)
        with pool.cluster.closing.image(opened, what) as image:
            yield image
