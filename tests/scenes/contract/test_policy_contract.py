"""One contract for simulator and bridge: numpy and JAX give the same observation and command."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from scenes.contract.policy_contract import (
    Contract,
    IkSpec,
    Readings,
    advance_command,
    objects_observed,
    observe,
)
from scenes.contract.serialize import digest, from_json, to_json
from scenes.contract.specs import ActionSpec, ObsField, ObsSpec
from scenes.robots import robot_named

ACTION = ActionSpec(
    mode="ee_delta", names=("x", "y", "z", "gripper"), scale=(0.025,) * 3 + (1.0,), rate=10.0
)
NAMES = ("cube_position", "cube_from_ee", "ee_position", "ee_target", "ee_lag", "gripper_command")


def contract(robot: str = "panda") -> Contract:
    spec = robot_named(robot)
    fields = tuple(ObsField(name=name, shape=(3,), unit="m") for name in NAMES[:-1])
    return Contract(
        robot=spec,
        obs=ObsSpec(fields=fields),
        action=ACTION,
        ik=IkSpec(rate=40.0, damping=1e-3, max_joint_step=0.15),
        home=spec.home,
        episode_steps=100,
    )


def readings(seed: int) -> Readings:
    rng = np.random.default_rng(seed)
    ee, target, cube = rng.normal(size=(3, 3)).astype(np.float32)
    return Readings(ee, target, np.float32(0.3), np.float32(0.04), np.zeros(7, "f"), {"cube": cube})


def test_numpy_and_jax_observe_the_same() -> None:
    given_numpy = readings(0)
    on_jax = jax.jit(lambda r: observe(NAMES, r))(jax.tree.map(jnp.asarray, given_numpy))
    for name, value in observe(NAMES, given_numpy).items():
        np.testing.assert_array_equal(value, on_jax[name])


def test_an_observation_says_where_things_are() -> None:
    r = readings(1)
    seen = observe(NAMES, r)
    np.testing.assert_array_equal(seen["cube_from_ee"], r.objects["cube"] - r.ee_position)
    np.testing.assert_array_equal(seen["ee_lag"], r.ee_target - r.ee_position)
    assert seen["gripper_command"].shape == (1,)


def test_what_nothing_gives_is_refused_with_a_hint() -> None:
    with pytest.raises(KeyError, match=r"Did you mean 'cube_position'\?.*peg_position"):
        observe(["cube_positions"], readings(0)._replace(objects={"cube": 0, "peg": 0}))


def test_objects_are_those_an_observation_names() -> None:
    assert objects_observed(contract().obs) == ("cube",)


@settings(deadline=None)  # the first call compiles
@given(
    action=hnp.arrays(np.float32, 4, elements=st.floats(-3, 3, width=32)),
    base=st.sampled_from(["target", "measured"]),
)
def test_commands_agree_and_stay_in_the_box(action: np.ndarray, base: str) -> None:
    low, high = np.float32([0.2, -0.3, 0.0]), np.float32([0.6, 0.3, 0.5])
    spec = dataclasses.replace(ACTION, base=base)
    last, measured = (np.float32([0.4, 0.0, 0.2]), np.float32(0.5)), np.float32([0.3, 0.1, 0.1])
    target, closure = advance_command(spec, (low, high), last, measured, action)
    on_jax = advance_command(
        spec, (jnp.asarray(low), jnp.asarray(high)), last, measured, jnp.asarray(action)
    )
    np.testing.assert_allclose(target, on_jax[0], atol=1e-7)
    np.testing.assert_allclose(closure, on_jax[1], atol=1e-7)
    assert (target >= low).all() and (target <= high).all() and 0.0 <= closure <= 1.0
    start = last[0] if base == "target" else measured
    assert np.abs(target - start).max() <= 0.025 + 1e-6


def test_a_contract_survives_json_and_its_digest_sees_every_change() -> None:
    ours = contract()
    again = from_json(Contract, to_json(ours))
    assert again == ours and digest(again) == digest(ours)
    changed = [
        dataclasses.replace(ours, episode_steps=99),
        dataclasses.replace(ours, action=dataclasses.replace(ACTION, base="measured")),
        dataclasses.replace(ours, obs=ObsSpec(fields=ours.obs.fields[::-1])),
        contract("fr3"),
    ]
    assert len({digest(c) for c in [ours, *changed]}) == 5
