"""Files that hold a disk: what is really in one (inspect), and qemu-img, which alone opens them (qemu_img).

Image stores, volume backends and disks of servers are built on it.
"""
