"""benchmarks.sweep: every broken promise is told; native and MJX agree on a small arm."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
import pytest
from two_joints import registered

from benchmarks import promises, sweep
from benchmarks.results import Recorder
from mjx_serl.envs.env import Env, make_env

STEPS = 6


@pytest.fixture(scope="module")
def short(make_native: Callable[[str], Env]) -> Env:
    """franka/pick_cube with a time limit of four steps."""
    env = make_native("franka/pick_cube")
    config = dataclasses.replace(env.task.config, episode_steps=4)
    return dataclasses.replace(env, task=config.build(env.scene))


@pytest.fixture(scope="module")
def played(short: Env) -> promises.Played:
    play = promises.player(short, worlds=2, steps=STEPS)
    return jax.device_get(play(jax.random.key(0))[1])


def test_a_time_limit_is_passed_rightly(short: Env, played: promises.Played):
    assert played.t.T.tolist() == [[1, 2, 3, 4, 1, 2]] * 2
    assert promises.broken_promises(short, played) == []


def put(array: np.ndarray, value: object, *where: int) -> np.ndarray:
    """The array with one entry changed."""
    changed = np.array(array)
    changed[where] = value
    return changed


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda p: {"qpos": put(p.qpos, np.nan, 2, 0, 3)}, "joint positions are not finite"),
        (lambda p: {"reward": put(p.reward, np.inf, 1, 1)}, "rewards are not finite"),
        (lambda p: {"valid": put(p.valid, False, 0, 0)}, "1 invalid steps"),
        (lambda p: {"terminated": put(p.terminated, True, 3, 0)}, "in one step"),
        (lambda p: {"truncated": put(p.truncated, False, 3, 1)}, "truncated elsewhere"),
        (lambda p: {"t": put(p.t, 5, 3, 0)}, "an episode has 5 of 4 steps"),
        (lambda p: {"t": put(p.t, 3, 1, 0)}, "not counted one by one"),
        (lambda p: {"obs": p.obs | {"extra": p.t}}, "observes"),
        (lambda p: {"obs": p.obs | {"ee_lag": p.obs["ee_lag"][..., :2]}}, "ee_lag is float32"),
        (lambda p: {"obs": p.obs | {"ee_lag": put(p.obs["ee_lag"], np.nan, 0)}}, "not finite"),
        (lambda p: {"obs": p.obs | {"ee_lag": put(p.obs["ee_lag"], 1e4, 0)}}, "reaches 1e+04 m"),
    ],
)
def test_a_broken_promise_is_told(short: Env, played: promises.Played, change: Callable, told: str):
    faults = promises.broken_promises(short, played.replace(**change(played)))
    assert any(told in fault for fault in faults), faults


def test_a_camera_that_sees_nothing_is_told(short: Env):
    """One below the floor, looking down: the sky."""
    worlds, _ = promises.player(short, worlds=2, steps=1)(jax.random.key(0))
    spec = short.scene.spec
    below = dataclasses.replace(
        spec.camera("front"), pos=(0.0, 0.0, -9.0), quat=(1.0, 0.0, 0.0, 0.0)
    )
    scene = dataclasses.replace(short.scene, spec=dataclasses.replace(spec, cameras=(below,)))
    told = promises.seen_wrong(dataclasses.replace(short, scene=scene), worlds)
    assert told == ["front sees nothing"]


def test_native_and_mjx_agree_within_the_tolerance():
    with registered() as task:
        envs = [make_env(task, physics=physics) for physics in ("native", "mjx")]
        plays = [promises.player(env, worlds=2, steps=sweep.PARITY_STEPS) for env in envs]
        gaps = promises.differences(*(play(jax.random.key(0))[1] for play in plays))
    assert gaps.shape == (sweep.PARITY_STEPS,)
    assert 0 < gaps.max() < sweep.PARITY


def test_single_steps_tell_the_robot_s_joints_from_objects(short: Env):
    """Against itself nothing differs; what is done to the cube is not the robot's difference.

    A world that starts a little elsewhere ends a little elsewhere.
    """
    key = jax.random.key(0)
    gap, own = promises.step_differences(short, short, key, worlds=2, steps=5)
    assert gap == promises.StepGap(robot=0.0, objects=0.0)
    assert 0.1 * promises.MOVED < own.robot < 100 * promises.MOVED
    (cube,) = short.scene.objects.values()

    class Shifted:
        """Whose cube is a millimetre further after each step."""

        def __getattr__(self, name: str):
            return getattr(short.physics, name)

        def step(self, carry, ctrl, n_substeps):
            carry, sim = short.physics.step(carry, ctrl, n_substeps)
            inner = short.controller.inner_steps
            return carry, sim.replace(qpos=sim.qpos.at[cube.qpos_ids[0]].add(1e-3 / inner))

    moved = dataclasses.replace(short, physics=Shifted())
    gap, _ = promises.step_differences(short, moved, key, worlds=2, steps=5)
    assert gap.robot == 0.0 and gap.objects > 1e-4


@pytest.mark.parametrize(
    ("gap", "own", "counted"),
    [
        ((1e-4, 5e-4), (0.0, 0.0), 5e-4),
        ((1e-4, 0.2), (1e-4, 0.3), 1e-4),  # an object that tumbles does so from itself
        ((1e-4, 0.2), (1e-4, 0.1), 0.2),
        ((5e-3, 0.2), (1e-3, 0.3), 5e-3),
    ],
)
def test_only_what_native_does_not_do_to_itself_counts(
    monkeypatch: pytest.MonkeyPatch, gap: tuple, own: tuple, counted: float
):
    found = promises.StepGap(*gap), promises.StepGap(*own)
    monkeypatch.setattr(promises, "step_differences", lambda *_, **__: found)
    monkeypatch.setattr("mjx_serl.envs.env.make_env", lambda *_, **__: None)
    value, told = sweep._of_single_steps(sweep.SweepConfig(), "franka/pick_cube")
    assert value == counted and told["gap"]["objects"] == gap[1]


def test_what_is_filed_is_not_measured_again(monkeypatch: pytest.MonkeyPatch):
    recorder, asked = Recorder("sweep"), []
    recorder.add("franka/pick_cube: native", 0.0, "faults", {})
    monkeypatch.setattr(sweep, "_sweep", lambda cfg, task, physics, *_: asked.append(physics))
    cfg = sweep.SweepConfig(only=("franka/pick_cube",), pictures=False, parity=False)
    sweep.run(cfg, recorder)
    assert asked == ["mjx"]
    with pytest.raises(KeyError, match="Unknown task 'franka/pickcube'"):
        sweep.run(sweep.SweepConfig(only=("franka/pickcube",)), recorder)
