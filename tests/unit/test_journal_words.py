"""What an agent says of a failure: the cause, and not how its host is laid out."""

from __future__ import annotations

import errno

import pytest

from kilonova.compute.journal import words
from kilonova.domain.errors import BuildFailed


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            BuildFailed("qemu-img: /srv/state/hosts/h1/instances/3e95/disk.part: No space left on device"),
            "qemu-img: disk.part: No space left on device",
        ),
        (BuildFailed("cannot write '/srv/a b/x.xml.new': full"), "cannot write 'a b/x.xml.new': full"),
        (BuildFailed("http://h/a/b said 10.0.0.0/8 and/or no"), "http://h/a/b said 10.0.0.0/8 and/or no"),
        (BuildFailed("cannot open /dev/kvm"), "cannot open /dev/kvm"),
        (OSError(errno.ENOSPC, "No space left on device", "/srv/h1/disk"), "No space left on device"),
        (ValueError("five"), "unexpected ValueError"),
        (BuildFailed("qemu said \0\0 and \udcff"), "qemu said ?? and ?"),
    ],
)
def test_words(error: Exception, said: str) -> None:
    assert words(error) == said
