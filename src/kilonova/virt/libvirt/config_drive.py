"""The config drive: an ISO 9660 labelled ``config-2`` with what the metadata service would say."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from kilonova.disk_image import durable

_LABEL = "config-2"


def write(path: Path, files: Mapping[str, bytes]) -> None:
    """All of ``files`` (relative path → content) in a new image at ``path``: whole or absent."""
    import pycdlib  # 0.15 s to import, and most servers have no config drive

    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=4, vol_ident=_LABEL, joliet=3, rock_ridge="1.09", sys_ident="LINUX")
    made: set[PurePosixPath] = set()
    for name, content in sorted(files.items()):
        target = PurePosixPath("/") / name
        for folder in reversed(target.parents[:-1]):
            if folder not in made:
                made.add(folder)
                iso.add_directory(str(folder), rr_name=folder.name, joliet_path=str(folder))
        iso.add_fp(
            io.BytesIO(content), len(content), str(target), rr_name=target.name, joliet_path=str(target)
        )
    part = path.with_name(path.name + ".part")
    part.touch(mode=0o600)  # it may hold the admin password
    iso.write(str(part))
    iso.close()
    durable.put(part, path)
