"""A process with a libvirt driver, to be killed by test_libvirt_restart.py.

libvirt_child.py STATE build RUNNING PAUSED   build two guests, leave one awaiting its start; say whether
                                              libvirt asks QEMU for one more what it can do; then wait
libvirt_child.py STATE look                   print the guests, as JSON; then remove them all
"""

from __future__ import annotations

import io
import json
import sys
import threading
import uuid
from pathlib import Path

from kilonova.cancel import Cancel
from kilonova.config import Config, Libvirt
from kilonova.domain.servers import BuildSpec, Flavor, ImageRef
from kilonova.virt.libvirt import reaper
from kilonova.virt.libvirt.driver import LibvirtDriver

IMAGE = bytes(1 << 20)


class OneImage:
    def open(self, image_id: str) -> io.BytesIO:
        return io.BytesIO(IMAGE)


def main() -> None:
    reaper.adopt_guests()
    state, command, *server_ids = sys.argv[1:]
    config = Config(state=state, libvirt=Libvirt(virt_type="qemu"))
    driver = LibvirtDriver(config, Path(state, "hosts", "a-host-with-a-name"), OneImage())
    driver.start(lambda _event: None)
    if command == "build":
        for server_id in server_ids:
            build(driver, server_id)
        driver.resume_build(server_ids[0])
        before, one_more = answers_of_qemu(Path(state)), str(uuid.uuid4())
        build(driver, one_more)
        print("asked QEMU anew" if answers_of_qemu(Path(state)) != before else "knew QEMU", flush=True)
        driver.destroy(one_more)
        print("built", flush=True)
        threading.Event().wait()
    guests = {guest.server_id: (guest.power_state.name, guest.awaits_start) for guest in driver.guests()}
    for server_id in driver.leftovers():
        driver.destroy(server_id)
    print(json.dumps({"guests": guests, "left": sorted(driver.leftovers())}), flush=True)
    driver.stop()


def answers_of_qemu(state: Path) -> dict[str, int]:
    """The files in which libvirt keeps them; their times."""
    files = state.glob("hosts/*/embed/cache/qemu/capabilities/*.xml")
    return {path.name: path.stat().st_mtime_ns for path in files}


def build(driver: LibvirtDriver, server_id: str) -> None:
    spec = BuildSpec(
        server_id=server_id,
        name="n",
        hostname="n",
        project_id="p",
        user_id="u",
        flavor=Flavor(id="1", name="tiny", vcpus=1, memory_mb=64, root_gb=1),
        image=ImageRef(id="00000000-0000-0000-0000-000000000001", disk_format="raw", size=len(IMAGE)),
    )
    driver.ensure_base_image(spec, Cancel())
    driver.ensure_disks(spec, Cancel())
    driver.ensure_paused(spec, [])


if __name__ == "__main__":
    main()
