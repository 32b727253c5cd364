"""Compiled scenes shared by the tests of this folder."""

import pytest

from scenes.build import Scene, build_scene
from scenes.layouts import pick_cube
from scenes.robots import ROBOTS, robot_named


@pytest.fixture(scope="session", params=sorted(ROBOTS))
def scene(request: pytest.FixtureRequest) -> Scene:
    """The pick-cube scene of every robot, position actuation."""
    return build_scene(pick_cube(robot_named(request.param)))
