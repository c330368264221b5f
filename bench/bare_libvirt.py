"""Bare libvirt: what remains when everything of Kilonova is taken away but the domain's XML and disk.

    python -m bench.bare_libvirt FOLDER IMAGE ROUNDS

prints the seconds from defineXML until the domain runs, one a round.
"""

from __future__ import annotations

import sys
import time
import uuid
from pathlib import Path
from typing import BinaryIO

import libvirt

from kilonova import log
from kilonova.cancel import Cancel
from kilonova.config import Config
from kilonova.domain.servers import BuildSpec, Flavor, ImageRef
from kilonova.virt.libvirt.driver import LibvirtDriver
from kilonova.virt.libvirt.reaper import adopt_guests


class _OneImage:
    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, _image_id: str) -> BinaryIO:
        return self._path.open("rb")


def main() -> None:
    folder, image, rounds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    log.setup(sys.stderr)
    adopt_guests()
    driver = LibvirtDriver(Config(state=str(folder)), folder / "host", _OneImage(image))
    driver.start(lambda _event: None)
    reference = ImageRef(id=str(uuid.uuid4()), disk_format="qcow2", size=image.stat().st_size)
    server_id = str(uuid.uuid4())
    spec = BuildSpec(
        server_id=server_id,
        name="bare",
        hostname="bare",
        project_id="p",
        user_id="u",
        flavor=Flavor(id="42", name="m1.nano", vcpus=1, memory_mb=128, root_gb=1),
        image=reference,
    )
    driver.ensure_base_image(spec, Cancel())
    driver.ensure_disks(spec, Cancel())
    driver.ensure_paused(spec, [])
    connection = driver._connection.get()
    domain = connection.lookupByUUIDString(server_id)
    xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    domain.destroy()
    domain.undefine()
    for _ in range(rounds):
        began = time.perf_counter()
        domain = connection.defineXML(xml)
        domain.create()
        while domain.state()[0] != libvirt.VIR_DOMAIN_RUNNING:
            time.sleep(0.001)
        print(time.perf_counter() - began)
        domain.destroy()
        domain.undefine()
    driver.destroy(server_id)
    driver.stop()


if __name__ == "__main__":
    main()
