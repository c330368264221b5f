"""The volume manager of this process, and the backends that it works with."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path

from kilonova.bus.base import Bus
from kilonova.cli.parts.agents import own_name
from kilonova.config import Config, VolumeBackend
from kilonova.domain.messages import VolumeEnded
from kilonova.engine.faults import FaultPoints
from kilonova.image.base import ImageSource
from kilonova.image.service import Images
from kilonova.store.database import Database
from kilonova.volume.base import Backend
from kilonova.volume_manager.parts import Parts, Place
from kilonova.volume_manager.service import Manager
from kilonova.volume_manager.uploads import ImageUploads

_DEFAULT = "file"
"""The backend that there is where none is configured."""


def start_manager(
    config: Config,
    db: Database,
    bus: Bus,
    images: Images,
    source: ImageSource,
    state: Path,
    faults: FaultPoints,
    closing: ExitStack,
) -> str:
    """It takes the work of its backends when this returns; what to tell about it.

    ``source``: the images' bytes; ``state``: the folder for what is kept here.
    """
    name = config.volume.name or own_name(config)
    places = open_places(config, source, state, closing)
    parts = Parts(
        name=name,
        owner=f"volume.{name}/{own_name(config)}",
        config=config,
        db=db,
        bus=bus,
        places=places,
        uploads=ImageUploads(images),
        faults=faults,
        ended=partial(_tell, bus),
    )
    manager = Manager(parts)
    closing.callback(manager.close)
    manager.start()
    return f"{name} ({', '.join(places)})"


def open_places(config: Config, images: ImageSource, state: Path, closing: ExitStack) -> dict[str, Place]:
    """The backends of that configuration, by name; nothing is asked of them yet."""
    return {one: _place(one, options, images, state, closing) for one, options in _enabled(config).items()}


def _tell(bus: Bus, word: VolumeEnded) -> None:
    """For the hosts that wait for it, or whose guests have it. Lost, it costs time: they look themselves."""
    bus.cast("conductor", "volume_ended", word)


def _enabled(config: Config) -> dict[str, VolumeBackend]:
    if not config.volume.backends:
        return {_DEFAULT: VolumeBackend(driver="file")}
    wanted = config.volume.enabled_backends or list(config.volume.backends)
    return {name: config.volume.backends[name] for name in wanted}


def _place(name: str, options: VolumeBackend, images: ImageSource, state: Path, closing: ExitStack) -> Place:
    called = options.volume_backend_name or name
    make = {"file": _files, "iscsi": _iscsi, "rbd": _ceph}[options.driver]
    return Place(options.driver, called, make(options, images, state, closing))


def _folder(options: VolumeBackend, state: Path) -> Path:
    return Path(options.path) if options.path else state / "volumes"


def _files(options: VolumeBackend, images: ImageSource, state: Path, _closing: ExitStack) -> Backend:
    from kilonova.volume.backends.file import FileBackend

    return FileBackend(_folder(options, state), images, shared=options.shared)


def _iscsi(options: VolumeBackend, images: ImageSource, state: Path, _closing: ExitStack) -> Backend:
    from kilonova.volume.backends.iscsi import IscsiBackend
    from kilonova.volume.backends.tgt import Tgt

    address = options.target_ip_address
    portal = f"[{address}]:{options.target_port}" if ":" in address else f"{address}:{options.target_port}"
    return IscsiBackend(
        _folder(options, state),
        images,
        tgt=Tgt(Path(options.tgt_socket)),
        portal=portal,
        prefix=options.target_prefix,
    )


def _ceph(options: VolumeBackend, images: ImageSource, state: Path, closing: ExitStack) -> Backend:
    from kilonova.rbd import Cluster
    from kilonova.volume.backends.rbd import RbdBackend

    cluster = Cluster(Path(options.rbd_ceph_conf), options.rbd_user)
    closing.callback(cluster.close)
    return RbdBackend(cluster.pool(options.rbd_pool), images, state / "spool")
