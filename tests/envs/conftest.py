"""One compiled scene and one environment per task for the whole folder: compiling is the cost."""

from collections.abc import Callable

import pytest

from mjx_serl import tasks as tasks  # fills TASKS
from mjx_serl.envs.env import Env, make_env
from scenes.build import Scene, build_scene
from scenes.layouts import pick_cube


@pytest.fixture(scope="session")
def panda_scene() -> Scene:
    """The sparse task's scene."""
    return build_scene(pick_cube())


@pytest.fixture(scope="session")
def make_native() -> Callable[[str], Env]:
    """A registered task on native physics, built once."""
    built: dict[str, Env] = {}

    def make(task: str) -> Env:
        if task not in built:
            built[task] = make_env(task, physics="native")
        return built[task]

    return make


@pytest.fixture(scope="session")
def sparse(make_native: Callable[[str], Env]) -> Env:
    """franka/pick_cube on native physics."""
    return make_native("franka/pick_cube")


@pytest.fixture(scope="session")
def dense(make_native: Callable[[str], Env]) -> Env:
    """franka/pick_cube_dense on native physics."""
    return make_native("franka/pick_cube_dense")
