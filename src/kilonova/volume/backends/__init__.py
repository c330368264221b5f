"""The stores that keep the bytes of volumes: files, Ceph, files behind iSCSI. One contract suite for all."""
