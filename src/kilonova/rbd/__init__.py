"""Ceph: the one place that knows its bindings. Image stores, volume backends and disks are built on it."""
