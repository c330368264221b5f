"""A short name for a folder whose path is too long for UNIX sockets.

libvirt keeps sockets below its root, and a socket's path ends at 107 bytes. For a deep folder the driver
works through a symbolic link in the run-time directory while it is started; stop() removes it. Guests need
it no more once they run.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from kilonova.domain.errors import Unavailable

_SOCKET_PATH_LIMIT = 107  # bytes of sun_path, without its end
_LONGEST_SOCKETS = (
    "/embed/lib/qemu/domain-99999-instance-00000000-00/monitor.sock",  # as libvirt names it
    "/instances/00000000-0000-0000-0000-000000000000/ga",
)
ROOM = _SOCKET_PATH_LIMIT - max(len(path) for path in _LONGEST_SOCKETS)
"""Bytes that a folder's path may have to be used as it is."""


class ShortPath:
    def __init__(self, folder: Path, run_folder: Path | None = None) -> None:
        """Unavailable if the path is too long and there is no run-time directory for a link."""
        self._folder = folder
        self._link: Path | None = None
        if len(os.fsencode(folder)) > ROOM:
            name = "kilonova-" + hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
            self._link = (run_folder or _run_folder(folder)) / name

    @property
    def path(self) -> Path:
        return self._link or self._folder

    def make(self) -> None:
        """The link exists (a killed process may have left it). Unavailable if it leads elsewhere."""
        if self._link is None:
            return
        try:
            self._link.symlink_to(self._folder)
        except FileExistsError:
            if not self._link.is_symlink() or self._link.readlink() != self._folder:
                raise Unavailable(f"{self._link} is in the way of a short name for {self._folder}") from None
        except OSError as error:
            raise Unavailable(
                f"cannot make {self._link}, a short name for {self._folder}: {error}"
            ) from error

    def remove(self) -> None:
        if self._link is not None:
            self._link.unlink(missing_ok=True)


def _run_folder(folder: Path) -> Path:
    """A place that other users cannot write to."""
    if os.geteuid() == 0:
        return Path("/run")
    if own := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(own)
    raise Unavailable(
        f"the path of the folder {folder} is too long: libvirt keeps UNIX sockets below it; choose one of at "
        f"most {ROOM} bytes, or set XDG_RUNTIME_DIR"
    )
