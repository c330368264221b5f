"""An image service in a process of its own, to be killed. Arguments: its folder.

Prints its port when it serves, and a line each time the store has written a block and asks for the next.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from cheroot import wsgi

from kilonova import log
from kilonova.api import bodies, image
from kilonova.api.http import application
from kilonova.config import Config
from kilonova.domain.context import RequestContext
from kilonova.image.file import FileStore
from kilonova.image.service import Images
from kilonova.image.writers import Writers
from kilonova.store.database import Database


def tell(chunks: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk
        print("block", flush=True)


class TellingStore(FileStore):
    def put(self, image_id: str, chunks: Iterable[bytes], max_size: int) -> int:
        return super().put(image_id, tell(chunks), max_size)


def authenticate(_token: str, request_id: str) -> RequestContext:
    return RequestContext(request_id=request_id, user_id="u", project_id="p", roles=frozenset({"member"}))


log.setup()  # to stderr
folder = Path(sys.argv[1])
database = Database(f"sqlite:///{folder}/db.sqlite")
database.create()
images = Images(database, TellingStore(folder / "images"), Config(), writers=Writers(folder / "writers"))
images.recover()
server = wsgi.Server(("127.0.0.1", 0), application([image.service(images)], authenticate), numthreads=3)
server.gateway = bodies.Gateway
server.prepare()
print(server.bind_addr[1], flush=True)
server.serve()
