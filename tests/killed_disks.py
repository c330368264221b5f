"""Disks of servers whose making, or removal, is killed before each of its steps (kill_steps.py). A process of
its own: ``python -m tests.killed_disks <json>`` prints for which servers it began, one id a line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from tests.kill_steps import Work, killed_before_each_step

from kilonova.cancel import Cancel
from kilonova.config import Config, Libvirt
from kilonova.domain import codec
from kilonova.domain.servers import BuildSpec
from kilonova.virt.libvirt import disk
from kilonova.virt.libvirt.folder import Folder
from kilonova.virt.libvirt.images import ImageCache


def main(path: Path, options: dict[str, str], what: str, like: BuildSpec) -> None:
    """``what``: ``make`` or ``remove``, of servers ``like`` this one, whose image is in the host's cache."""

    @contextmanager
    def begin(ident: str) -> Iterator[Work]:
        folder = Folder(path)
        cache = ImageCache(folder, None)  # type: ignore[arg-type]  # nothing is fetched here
        backend = disk.backend(Config(libvirt=Libvirt(**options)), folder, cache, "h1")  # type: ignore[arg-type]
        spec = msgspec.structs.replace(like, server_id=ident)
        folder.instance(ident).make()

        def make() -> None:
            backend.ensure_system(spec, Cancel())
            backend.ensure_swap(spec)

        if what == "remove":
            make()
        yield make if what == "make" else lambda: backend.remove_all(ident)
        backend.close()

    killed_before_each_step(path, begin)


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    like = codec.convert(asked["like"], BuildSpec)
    main(Path(asked["folder"]), asked["options"], asked["what"], like)
