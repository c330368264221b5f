"""The libvirt driver: guests are QEMU processes, under KVM where KVM really works.

Without a daemon by default (``qemu:///embed``): libvirt's QEMU driver runs in our process, the guests do not.
"""
