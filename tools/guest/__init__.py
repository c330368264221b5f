"""The parts of mkguest: packages, kernel modules, the initramfs, the root tree and the disk.

Only the standard library and the system's Python: the guest is built before, or beside, the virtual
environment.
"""
