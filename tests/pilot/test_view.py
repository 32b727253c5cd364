"""The piloted world in three dimensions, as a stand-in for viser is told of it."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mjx_serl.envs.env import Env
from mjx_serl.envs.observation import Observer, PixelConfig
from mjx_serl.pilot import view
from mjx_serl.pilot.view import WorldView
from mjx_serl.viewing.live_world import LiveWorld
from mjx_serl.viewing.recorded_env import build_recorded_env
from scenes.contract.rotations import quat_to_matrix


class Scene:
    """Remembers what is added, by name."""

    def __init__(self) -> None:
        self.added: dict[str, SimpleNamespace] = {}

    def __getattr__(self, kind: str) -> Any:
        def add(*args: Any, **options: Any) -> SimpleNamespace:
            if kind == "set_up_direction":
                return SimpleNamespace()
            made = SimpleNamespace(kind=kind, **options)
            self.added[args[0]] = made
            return made

        return add


class Viser:
    """Its server, without one."""

    def __init__(self, **options: Any) -> None:
        self.scene = Scene()
        self.initial_camera = SimpleNamespace()
        self.gui = SimpleNamespace(configure_theme=lambda **theme: None)
        self.stopped = False

    def get_port(self) -> int:
        return 1

    @contextlib.contextmanager
    def atomic(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        self.stopped = True


def test_cameras_and_tool_are_where_they_are_in_the_world(
    sparse: Env, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "require", lambda *args, **said: SimpleNamespace(ViserServer=Viser))
    recorded = build_recorded_env(Observer(sparse), PixelConfig(splats=2000), size=16)
    world = LiveWorld(recorded, seed=0)
    shown = WorldView(world)
    added = shown._server.scene.added
    wrist = sparse.scene.spec.camera("wrist")
    body = int(sparse.scene.model.body(wrist.body).id)
    frustum = added[f"/body_{body}/wrist"]
    assert frustum.kind == "add_camera_frustum" and frustum.fov == np.radians(wrist.fovy)
    # MuJoCo looks along -z, viser along +z.
    looks, forward = (quat_to_matrix(q)[:, 2] for q in (wrist.quat, frustum.wxyz))
    np.testing.assert_allclose(forward, -looks, atol=1e-9)
    before = np.array(world.places()["target"][0])
    world.play(np.array([[1.0, 0.0, 0.0, 0.0]], np.float32))
    shown.show()
    places = world.places()
    np.testing.assert_array_equal(added["/target"].position, places["target"][0])
    assert places["target"][0][0] > before[0]
    moment = world.snapshot()
    np.testing.assert_array_equal(added[f"/body_{body}"].position, moment.xpos[body])
    site = np.asarray(world._world.sim.site_xpos[0, sparse.scene.arm.ee_site_id])
    np.testing.assert_array_equal(added["/measured"].position, site)
    shown.close()
    assert shown._server.stopped
