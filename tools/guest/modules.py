"""Kernel modules: dependencies and aliases are read from the files themselves, so no depmod is needed."""

from __future__ import annotations

import lzma
import re
from pathlib import Path

INITRAMFS_FIRST = ("virtio_pci", "virtio_blk")
INITRAMFS_SECOND = ("virtio_scsi", "sd_mod", "ata_piix")
ROOT = (
    *("virtio_net", "virtio_rng", "virtio_balloon", "virtio_console", "virtio_scsi", "virtiofs", "8021q"),
    *("sd_mod", "sr_mod", "ata_piix", "button", "evdev", "qemu_fw_cfg", "pvpanic_pci"),
    *("isofs", "vfat", "nls_cp437", "nls_iso8859_1", "nls_ascii", "nls_utf8"),
)


class Modules:
    """The modules of one kernel."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = {_name(file): file for file in folder.rglob("*.ko*")}
        self._builtin = {_name(Path(line)) for line in (folder / "modules.builtin").read_text().split()}

    def with_dependencies(self, names: tuple[str, ...]) -> list[str]:
        """These modules and what they need, in an order in which they can be loaded."""
        order: list[str] = []

        def add(name: str) -> None:
            if name in order or name in self._builtin:
                return
            for needed in self._field("depends", name):
                for dependency in filter(None, needed.split(",")):
                    add(dependency.replace("-", "_"))
            order.append(name)

        for name in names:
            add(name)
        return order

    def data(self, name: str) -> bytes:
        if name not in self._files:
            raise SystemExit(f"mkguest: this kernel has no module {name}")
        content = self._files[name].read_bytes()
        return lzma.decompress(content) if self._files[name].suffix == ".xz" else content

    def install(self, names: list[str], folder: Path) -> None:
        """Modules, modules.dep and modules.alias, as modprobe wants them."""
        folder.mkdir(parents=True)
        dependencies, aliases = [], []
        for name in names:
            (folder / f"{name}.ko").write_bytes(self.data(name))
            needed = self.with_dependencies((name,))[-2::-1]
            dependencies.append(" ".join([f"{name}.ko:", *(f"{other}.ko" for other in needed)]) + "\n")
            aliases += [f"alias {alias} {name}\n" for alias in self._field("alias", name)]
        (folder / "modules.dep").write_text("".join(dependencies))
        (folder / "modules.alias").write_text("".join(aliases))

    def _field(self, field: str, name: str) -> list[str]:
        """What the module's .modinfo section says: zero-terminated field=value."""
        pattern = rb"\0" + field.encode() + rb"=([^\0]*)(?=\0)"
        return [value.decode() for value in re.findall(pattern, self.data(name))]


def _name(file: Path) -> str:
    """The kernel's name of a module: the file's, without suffix, dashes as underscores."""
    return file.name.split(".")[0].replace("-", "_")
