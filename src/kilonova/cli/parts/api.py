"""The HTTP side of this process: every API, over one address."""

from __future__ import annotations

import fcntl
import re
import threading
from contextlib import ExitStack
from pathlib import Path

from kilonova import log
from kilonova.api import compute as compute_api
from kilonova.api import health
from kilonova.api import identity as identity_api
from kilonova.api import image as image_api
from kilonova.api import network as network_api
from kilonova.api import volume as volume_api
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import application
from kilonova.api.idempotency import Once
from kilonova.api.public import known_as
from kilonova.api.volume.state import VolumeAPI
from kilonova.bus.base import Bus
from kilonova.cli.parts.http import Server
from kilonova.cli.state import Folder
from kilonova.config import Config
from kilonova.domain.errors import BadRequest
from kilonova.domain.identity import DEFAULT_DOMAIN
from kilonova.engine.faults import FaultPoints
from kilonova.engine.ticker import Ticker
from kilonova.identity.service import Identity
from kilonova.image.base import Stores
from kilonova.image.file import FileStore
from kilonova.image.raw import Converter
from kilonova.image.service import Images
from kilonova.image.writers import Writers
from kilonova.monitoring.watch import Watch
from kilonova.network.builtin.announcer import Announcer
from kilonova.network.builtin.service import BuiltinNetwork
from kilonova.store import users
from kilonova.store.database import Database
from kilonova.volume.builtin.service import BuiltinVolumes

_BURIAL_INTERVAL = 10.0
"""Seconds until the bytes of an image go that others than the image API have deleted, or whose upload nobody
goes on with."""

_RECOVERY_INTERVAL = 15.0
"""Seconds until it is tried again to end what a kill left of images."""


def listen(address: str, port: int, closing: ExitStack) -> Server:
    """A server that listens already, so that a port in use is known before anything has begun.

    BadRequest says which address it could not have, and why.
    """
    server = Server(address, port)
    try:
        server.prepare()
    except OSError as error:
        # cheroot packs what the system said for each address into one text.
        reasons = dict.fromkeys(re.findall(r"\[Errno -?\d+\] ([^)]+)\)", str(error)))
        raise BadRequest(f"cannot listen on {address}:{port}: {', '.join(reasons) or error}") from error
    closing.callback(server.stop)  # for a start that fails; serve() stops it sooner
    log.get("http").info("listening", url=server.url)
    return server


def key_folder(config: Config, state: Folder) -> Path:
    return Path(config.token.key_repository) if config.token.key_repository else state.folder("keys")


def image_folder(config: Config, state: Folder) -> Path:
    given = config.image.filesystem_store_datadir
    return Path(given) if given else state.folder("images")


def bootstrap(db: Database, identity: Identity, state: Folder) -> bool:
    """The built-in roles exist, and somebody can log in: the admin. False if not with the password that this
    folder keeps: the admin was made elsewhere, or has changed it.

    Of several that start at once, the first one in the database makes the admin.
    """
    with state.alone():
        with db.read() as conn:
            exists = users.by_name(conn, DEFAULT_DOMAIN, "admin") is not None
        ours = identity.bootstrap(state.admin_password(make=not exists))
        state.settle_password(ours)
    if not ours and state.admin_password() is not None:
        log.get("identity").warning("admin_password_was_changed", known_to=str(state.path))
    return ours


def open_images(config: Config, db: Database, folder: Path, closing: ExitStack) -> tuple[Images, Stores]:
    """The image service over that folder. What a kill has left of a process of this machine is mended."""
    reserve = config.image.reserved_disk_mb << 20
    stores = _stores(config, FileStore(folder, reserve), closing)
    converter = Converter(folder / "staging", config.image.max_converted_size, reserve)
    closing.callback(converter.close)
    writers = Writers(folder / ".writers")
    closing.callback(writers.close)
    images = Images(db, stores, config, converter if stores.default.keeps_disks else None, writers)
    lock = closing.enter_context((folder / ".lock").open("w"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        done = images.recover()
    except BlockingIOError:
        done = images.resume()  # others serve it: what does not say whose it is may be theirs
    if not done:
        _go_on_recovering(images, closing)
    fcntl.flock(lock, fcntl.LOCK_SH)
    return images, stores


def _stores(config: Config, files: FileStore, closing: ExitStack) -> Stores:
    if config.image.backend == "file":
        return Stores(files)
    from kilonova.image.rbd import RbdStore
    from kilonova.rbd import Cluster

    cluster = Cluster(Path(config.image.rbd_store_ceph_conf), config.image.rbd_store_user)
    closing.callback(cluster.close)
    return Stores(RbdStore(cluster.pool(config.image.rbd_store_pool)), files)


def _go_on_recovering(images: Images, closing: ExitStack) -> None:
    """Ceph takes who was killed for alive for half a minute."""
    ticker = Ticker("image-recovery")
    closing.callback(ticker.close)

    def again() -> None:
        if not images.resume():
            ticker.after(_RECOVERY_INTERVAL, again)

    ticker.after(_RECOVERY_INTERVAL, again)


def serve(
    server: Server,
    config: Config,
    db: Database,
    bus: Bus,
    identity: Identity,
    images: Images,
    faults: FaultPoints,
    watch: Watch,
    closing: ExitStack,
) -> None:
    """Answer requests from now on."""
    announcer = Announcer(db, bus, faults.reach)
    closing.callback(announcer.close)
    burials = Ticker("burials")
    closing.callback(burials.close)
    burials.every(_BURIAL_INTERVAL, images.resume)
    network = BuiltinNetwork(db, config, announcer.tell)
    volumes = BuiltinVolumes(db, bus, config, faults.reach)
    compute = ComputeAPI(
        config=config, db=db, bus=bus, network=network, images=images, volumes=volumes, faults=faults
    )
    answer = application(
        [
            identity_api.service(identity),
            image_api.service(images),
            network_api.service(network),
            volume_api.service(VolumeAPI(volumes, images)),
            volume_api.versions_service(),
            compute_api.versions_service(),
            compute_api.service(compute),
            *health.services(watch),
        ],
        identity.authenticate,
        Once(db, config.api.idempotency_key_lifetime, faults),
        db.durably,
    )
    server.wsgi_app = known_as(config.api.public_endpoint, answer)
    threading.Thread(target=server.serve, name="http", daemon=True).start()
    closing.callback(server.stop)
