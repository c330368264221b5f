"""Ceph: the one place that knows its bindings. Image stores, volume backends and disks are built on it.

``Cluster(conf, user)`` is a connection, ``cluster.pool(name)`` a Pool, and everything that is done to images
of a pool (RBD images: disks, not the image service's) is a method of that.
"""

from kilonova.rbd.cluster import Cluster
from kilonova.rbd.pool import Pool, Snapshot

__all__ = ["Cluster", "Pool", "Snapshot"]
