"""The piloted world in three dimensions, as a stand-in for viser is told of it."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from mjx_serl.envs.env import Env
from mjx_serl.envs.observation import Observer, PixelConfig
from mjx_serl.pilot import view
from mjx_serl.pilot.contacts import ContactForces
from mjx_serl.pilot.view import WorldView
from mjx_serl.viewing.live_world import LiveWorld
from mjx_serl.viewing.recorded_env import build_recorded_env
from scenes.contract.rotations import quat_to_matrix

pytestmark = pytest.mark.keeps_time


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
        self.tick = SimpleNamespace(value=True)
        self.gui = SimpleNamespace(
            configure_theme=lambda **theme: None, add_checkbox=lambda name, **more: self.tick
        )
        self.clients = {0: "a page"}
        self.stopped = False

    def get_clients(self) -> dict[int, str]:
        return self.clients

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
    shown.show(world)
    places = world.places()
    np.testing.assert_array_equal(added["/target"].position, places["target"][0])
    assert places["target"][0][0] > before[0]
    moment = world.snapshot()
    np.testing.assert_array_equal(added[f"/body_{body}"].position, moment.xpos[body])
    site = np.asarray(world._world.sim.site_xpos[0, sparse.scene.arm.ee_site_id])
    np.testing.assert_array_equal(added["/measured"].position, site)
    force = added["/contact forces"].points
    assert force.shape[1:] == (2, 3) and len(force) >= 3
    viser: Any = shown._server
    viser.tick.value = False
    shown.show(world)
    assert len(added["/contact forces"].points) == 0
    viser.clients, added["/target"].position = {}, None
    shown.show(world)
    assert added["/target"].position is None, "nobody looks"
    shown.close()
    assert viser.stopped


def test_the_contacts_of_a_resting_cube_carry_its_weight(sparse: Env) -> None:
    physics: Any = sparse.physics
    state = sparse.reset(jax.random.key(0))
    step = jax.jit(lambda carry, ctrl: physics.step(carry, ctrl, 20))
    carry, sim = state.carry, state.sim
    for _ in range(10):
        carry, sim = step(carry, state.sim.ctrl)
    forces = ContactForces(sparse.scene.model)
    places, force = forces.at(jax.device_get(sim))
    model, cube = sparse.scene.model, sparse.scene.objects["cube"].body_id
    near = np.linalg.norm(places - np.asarray(sim.xpos[cube]), axis=1) < 0.05
    assert 3 <= near.sum() <= 8
    weight = model.body_subtreemass[cube] * 9.81
    np.testing.assert_allclose(force[near].sum(axis=0), [0, 0, weight], atol=0.02 * weight)
    arrows = forces.arrows(jax.device_get(sim))
    assert (arrows[:, 1, 2] > arrows[:, 0, 2]).all(), "up, from what it lies on"
