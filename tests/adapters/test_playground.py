"""The way in from MuJoCo Playground, with a world that is written as theirs are.

The package itself is not among our development requirements: what makes its environments, robot
models of 1 GB, is fetched by git on their first use, or comes in a wheel of 89 MB. The last test is
of the real ones, where they are installed; `python -m benchmarks.playground` trains on one.
"""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from mjx_serl.agents.sac import SACConfig
from mjx_serl.envs.env import Env, make_env
from mjx_serl.envs.observation import Observer
from mjx_serl.envs.task import TASKS
from mjx_serl.envs.vector import vectorize
from mjx_serl.training.demonstrations import DemoConfig
from mjx_serl.training.off_policy import LoopConfig, OffPolicyConfig
from scenes.contract.errors import InputError, MissingPackageError

MODULE, LIMIT = "mjx_serl.adapters.playground", 6


@struct.dataclass
class Data:
    """The fields of mjx.Data that are read."""

    qpos: jax.Array
    qvel: jax.Array
    ctrl: jax.Array
    xpos: jax.Array
    xquat: jax.Array
    site_xpos: jax.Array
    site_xmat: jax.Array
    sensordata: jax.Array
    time: jax.Array


@struct.dataclass
class State:
    """As mujoco_playground's."""

    data: Data
    obs: Any
    reward: jax.Array
    done: jax.Array
    metrics: dict[str, Any]
    info: dict[str, Any]


class Slider:
    """A point that actions push; over where it is beyond 1. Written in Playground's manner.

    Its key is of the old kind, metrics begin as Python's numbers and are changed in place, and what
    is not finite is done.
    """

    dt, action_size = 0.1, 1

    def __init__(self, impl: str = "jax") -> None:
        self.impl = impl

    def reset(self, rng: jax.Array) -> State:
        rng, now = jax.random.split(rng)
        qpos = jax.random.uniform(now, (1,), minval=-0.3, maxval=0.3)
        info = {"rng": rng, "pushes": 0.0}
        metrics = {"box_target": 0.0, "out_of_bounds": jnp.array(0.0)}
        reward, done = jnp.zeros(2)
        data = self._data(qpos, jnp.zeros(1))
        return State(data, self._obs(data), reward, done, metrics, info)

    def step(self, state: State, action: jax.Array) -> State:
        qpos = state.data.qpos + 0.3 * action
        out = jnp.abs(qpos[0]) > 1.0
        done = out | jnp.isnan(qpos).any()
        state.metrics.update(box_target=1.0 - jnp.abs(qpos[0]), out_of_bounds=out.astype(float))
        state.info["pushes"] = state.info["pushes"] + 1.0
        data = self._data(qpos, 0.3 * action)
        reward = 1.0 - jnp.abs(qpos[0])
        return State(data, self._obs(data), reward, done.astype(float), state.metrics, state.info)

    def _data(self, qpos: jax.Array, ctrl: jax.Array) -> Data:
        place = jnp.zeros((2, 3)).at[1, 0].set(qpos[0])
        turn, empty = jnp.tile(jnp.array([1.0, 0, 0, 0]), (2, 1)), jnp.zeros(0)
        mats = jnp.zeros((1, 3, 3))
        return Data(qpos, ctrl, ctrl, place, turn, place[1:], mats, empty, jnp.zeros(()))

    def _obs(self, data: Data) -> Any:
        return jnp.append(data.qpos, 1.0)


class Seen(Slider):
    """One that observes a dict."""

    def _obs(self, data: Data) -> Any:
        return {"state": data.qpos, "privileged_state": jnp.append(data.qpos, data.qvel)}


class Config(SimpleNamespace):
    """As ml_collections': asked by name."""

    def __contains__(self, name: str) -> bool:
        return hasattr(self, name)


@pytest.fixture(scope="module")
def playground() -> Iterator[list[dict]]:
    """What Playground's registry was asked to load; its package is a stand-in."""
    asked: list[dict] = []

    def load(name: str, config_overrides: dict) -> Slider:
        asked.append(config_overrides)
        return {"PandaPickCube": Slider, "Seen": Seen}[name](config_overrides["impl"])

    registry = SimpleNamespace(
        manipulation=SimpleNamespace(ALL_ENVS=("PandaPickCube", "Seen")),
        get_default_config=lambda name: Config(
            episode_length=LIMIT, impl="warp", naconmax=24 * 2048
        ),
        load=load,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "mujoco_playground", SimpleNamespace(registry=registry))
        patch.delitem(sys.modules, MODULE, raising=False)
        importlib.import_module(MODULE)
        yield asked
        sys.modules.pop(MODULE)
    for name in ("playground/PandaPickCube", "playground/Seen"):
        TASKS._entries.pop(name)


@pytest.fixture(scope="module")
def slider(playground: list[dict]) -> Env:
    return make_env("playground/PandaPickCube", physics="mjx", max_worlds=7)


def rows(env: Env, action: float, steps: int) -> list:
    """States of one world after each step of the same action."""
    step, state, seen = jax.jit(env.step), jax.jit(env.reset)(jax.random.key(0)), []
    for _ in range(steps):
        state = step(state, jnp.full(1, action))
        seen.append(jax.device_get(state))
    return seen


def test_an_episode_ends_by_time_as_truncation(slider: Env):
    seen = rows(slider, 0.0, LIMIT)
    assert [bool(s.truncated) for s in seen] == [False] * (LIMIT - 1) + [True]
    assert not any(s.terminated for s in seen) and all(s.valid for s in seen)
    assert [int(s.t) for s in seen] == list(range(1, LIMIT + 1))
    start = float(seen[0].sim.qpos[0])
    np.testing.assert_allclose(seen[-1].obs["state"], [start, 1.0])
    assert float(seen[-1].carry.info["pushes"]) == LIMIT
    assert [bool(s.success) for s in seen] == [1 - abs(start) >= 0.8] * LIMIT


def test_what_playground_calls_done_is_a_termination(slider: Env):
    seen = rows(slider, 1.0, LIMIT)
    over = [bool(s.terminated) for s in seen]
    assert over.index(True) in (2, 3, 4) and not any(s.terminated & s.truncated for s in seen)
    assert seen[over.index(True)].metrics["out_of_bounds"] == 1.0
    assert seen[over.index(True)].valid


def test_a_state_that_is_not_finite_is_not_valid(slider: Env):
    (bad,) = rows(slider, float("nan"), 1)
    assert not bad.valid and bad.terminated and not bad.success
    assert bad.reward == 0.0 and np.isfinite(bad.obs["state"]).all()


def test_worlds_are_stepped_together_and_restarted(slider: Env):
    vec_env = vectorize(slider, num_envs=3)
    state = jax.jit(vec_env.reset)(jax.random.key(1))
    starts = np.asarray(state.envs.sim.qpos)
    assert len(np.unique(starts)) == 3
    step, ends = jax.jit(vec_env.step), []
    for _ in range(LIMIT):
        state, row = step(state, jnp.zeros((3, 1)))
        ends.append(row.truncated.tolist())
    assert ends == [[False] * 3] * (LIMIT - 1) + [[True] * 3]
    assert (np.asarray(state.envs.t) == 0).all()


def test_our_learner_trains_on_it(slider: Env):
    """One epoch of SAC: what is collected is learned from."""
    sizes = {"warmup_steps": 4, "steps_per_epoch": 8, "batch_size": 8, "buffer_size": 64}
    loop = LoopConfig(updates_per_step=2, **sizes)
    agent, demos = SACConfig(hidden=(8,)), DemoConfig(count=0)
    method = OffPolicyConfig(agent=agent, loop=loop, demos=demos)
    trainer = method.build(Observer(slider), num_envs=2)
    state, metrics = jax.jit(trainer.epoch)(trainer.init(jax.random.key(0)))
    assert state.worlds.envs.obs["state"].shape == (2, 2)
    assert np.isfinite([float(x) for x in jax.tree.leaves(metrics)]).all()


def test_a_dict_of_observations_keeps_its_names(playground: list[dict]):
    env = make_env("playground/Seen", physics="mjx")
    assert [(f.name, f.shape, f.privileged) for f in env.obs_spec.fields] == [
        ("privileged_state", (2,), True),
        ("state", (1,), False),
    ]
    assert env.action_dim == 1 and env.ctrl_dt == 0.1


def test_what_it_is_built_with(playground: list[dict], slider: Env):
    assert playground[0] == {"impl": "jax", "naconmax": 7 * 24}
    assert make_env("playground/PandaPickCube", physics="warp").physics.name == "warp"
    assert make_env("playground/PandaPickCube").physics.name == "mjx"


def test_its_robots_are_those_of_an_installed_package(
    playground: list[dict], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Unless it has fetched its own."""
    own, held = tmp_path / "own", tmp_path.joinpath(*sys.modules[MODULE]._MODELS)
    theirs = SimpleNamespace(MENAGERIE_PATH=own)

    def found() -> Path:
        make_env("playground/PandaPickCube", physics="mjx")
        return theirs.MENAGERIE_PATH

    monkeypatch.setitem(sys.modules, "mujoco_playground._src.mjx_env", theirs)
    assert found() == own, "without the package it fetches them"
    held.mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    own.mkdir()
    assert found() == own
    own.rmdir()
    assert found() == held


def test_what_it_cannot_do_is_told_in_one_line(playground: list[dict], slider: Env):
    with pytest.raises(InputError, match="physics 'native' of .*, allowed: mjx, warp"):
        make_env("playground/PandaPickCube", physics="native")
    with pytest.raises(InputError, match="no bundle, --run.no-bundle"):
        _ = slider.scene
    with pytest.raises(InputError, match="another library's world"):
        make_env("playground/PandaPickCube", scene=lambda spec: spec)
    with pytest.raises(KeyError, match="Unknown task 'playground/PandaPickCup'. Did you mean"):
        make_env("playground/PandaPickCup")


def test_without_the_package_a_line_says_what_brings_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "mujoco_playground", None)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    with pytest.raises(MissingPackageError, match=r"pip install 'mjx-serl\[playground\]'"):
        importlib.import_module(MODULE)
