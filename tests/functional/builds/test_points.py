"""Every boundary between two effects of an operation has a fault point. `make crash` kills at every one."""

from __future__ import annotations

import pytest
from tests.crash.test_kill import ATTACH_POINTS, BUILD_POINTS, DELETE_POINTS, DETACH_POINTS
from tests.functional.builds import stories
from tests.functional.builds.conftest import MakeCloud
from tests.functional.builds.stories import CONFIG, STORIES
from tests.functional.builds.watch import watch

pytestmark = pytest.mark.crash


def test_no_boundary_is_without_a_name(make_cloud: MakeCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch(monkeypatch)
    for story in STORIES:
        cloud = make_cloud(hosts=2, config=CONFIG)
        story(cloud)
        assert seen.unnamed == set(), story.__name__
    assert {*BUILD_POINTS, *DELETE_POINTS, *ATTACH_POINTS, *DETACH_POINTS} <= seen.points


@pytest.mark.parametrize(
    ("point", "story", "boundary"),
    [
        (
            "build.hand_over.after",
            stories.a_whole_life,
            ("build_instances", "write", "cast build_and_run_instance"),
        ),
        (
            "refresh_interfaces.accept.after",
            stories.ports_that_go_and_change,
            ("POST os-server-external-events", "write", "cast refresh_interfaces"),
        ),
        (
            "refresh_interfaces.unplug_vifs.after",
            stories.ports_that_go_and_change,
            ("refresh_interfaces", "host: unplug", "host: detach_interface"),
        ),
    ],
)
def test_a_boundary_without_a_name_is_seen(
    make_cloud: MakeCloud,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
    story: stories.Story,
    boundary: tuple[str, str, str],
) -> None:
    seen = watch(monkeypatch, forgotten=point)
    story(make_cloud(hosts=2, config=CONFIG))
    assert seen.unnamed == {boundary}
