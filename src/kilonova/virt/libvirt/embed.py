"""``qemu:///embed``: libvirt's QEMU driver inside our process, with its root in our folder."""

from __future__ import annotations

from kilonova import log
from kilonova.domain.errors import Unavailable
from kilonova.virt.libvirt import host
from kilonova.virt.libvirt.folder import Folder

_SOCKET_PATH_LIMIT = 107  # bytes of sun_path, without its end
_MONITOR = "/lib/qemu/domain-99999-instance-00000000-00/monitor.sock"  # as libvirt names it
_log = log.get("virt.libvirt")


def uri(folder: Folder) -> str:
    """The URI, when the root is ready for it. Unavailable if the folder's path is too long for sockets."""
    root = str(folder.embed)
    room = _SOCKET_PATH_LIMIT - len(_MONITOR) - len("/embed")
    if len(str(folder.root).encode()) > room:
        raise Unavailable(
            f"the path of the folder {folder.root} is too long: libvirt keeps UNIX sockets below it, whose "
            f"paths end at {_SOCKET_PATH_LIMIT} bytes; choose one of at most {room} bytes"
        )
    _write_configuration(folder)
    return f"qemu:///embed?root={root}"


def _write_configuration(folder: Folder) -> None:
    """libvirt's settings for our guests; its defaults for the rest, so QEMU runs as its own user."""
    settings = [
        "# Written by Kilonova at each start.",
        'stdio_handler = "file"  # no virtlogd beside us',
        "cgroup_controllers = []  # leave nothing outside the folder",
        "remember_owner = 0  # the files are ours alone",
    ]
    if not host.can_pass(folder.instances):
        _log.warning(
            "guests_run_as_root",
            reason=f"{folder.root} is not open to other users (chmod o+x it and the folders above)",
        )
        settings += ['user = "root"', 'group = "root"']
    path = folder.embed / "etc" / "qemu.conf"
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    path.write_text("\n".join(settings) + "\n")
