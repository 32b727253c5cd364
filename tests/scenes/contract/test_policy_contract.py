"""One contract for simulator and bridge: numpy and JAX give the same observation and command."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from scenes.contract.policy_contract import (
    Commanded,
    Contract,
    IkSpec,
    Pace,
    Pose,
    Reach,
    Readings,
    advance_command,
    object_observation,
    objects_observed,
    observation,
    observe,
)
from scenes.contract.rotations import quat_to_matrix
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


def test_what_is_not_measured_is_said() -> None:
    with pytest.raises(KeyError, match="Nothing measures observation 'ee_turn' here: .*ee_quat"):
        observe(["ee_turn"], readings(0))
    with pytest.raises(KeyError, match="'joint_position'"):
        observe(["joint_position"], readings(0))
    with pytest.raises(KeyError, match="'cube_rotation6d'"):
        observe(["cube_rotation6d"], readings(0))


ORIENTATIONS = (
    "ee_quat", "ee_rotation6d", "ee_turn", "ee_target_rotation6d", "ee_rotation_lag",
    "cube_rotation6d", "joint_position",
)  # fmt: skip


def turned_readings(seed: int) -> Readings:
    rng = np.random.default_rng(seed)
    quats = rng.normal(size=(4, 4))
    ee, target, start, cube = (quats / np.linalg.norm(quats, axis=1)[:, None]).astype(np.float32)
    return readings(seed)._replace(
        joint_position=rng.normal(size=7).astype(np.float32),
        ee_quat=ee,
        ee_target_quat=target,
        start_quat=start,
        object_quats={"cube": cube},
    )


@pytest.mark.parametrize("seed", range(5))
def test_orientations_are_observed_alike_to_the_last_bit(seed: int) -> None:
    given_numpy = turned_readings(seed)
    on_jax = jax.jit(lambda r: observe(ORIENTATIONS, r))(jax.tree.map(jnp.asarray, given_numpy))
    wide = given_numpy._replace(ee_quat=given_numpy.ee_quat.astype(np.float64))
    for name, value in observe(ORIENTATIONS, wide).items():
        np.testing.assert_array_equal(value, on_jax[name])


def test_an_observed_quaternion_does_not_jump() -> None:
    """Fingers down has w = 0: whichever way it is written, it is seen as the start's."""
    r = turned_readings(0)
    for sign in (1.0, -1.0):
        seen = observe(["ee_quat", "ee_turn"], r._replace(ee_quat=np.float32(sign) * r.start_quat))
        np.testing.assert_array_equal(seen["ee_quat"], r.start_quat)
        np.testing.assert_allclose(seen["ee_turn"], np.zeros(3), atol=3e-7)


def test_a_plug_in_adds_what_may_be_observed() -> None:
    @observation("test_height")
    def height(r: Readings) -> np.ndarray:
        return r.ee_position[..., 2:]

    assert observe(["test_height"], readings(0))["test_height"].shape == (1,)
    with pytest.raises(ValueError, match="'test_height' is registered twice"):
        observation("test_height")(height)
    with pytest.raises(ValueError, match="'_position' is registered twice"):
        object_observation("_position")(lambda r, name: r.objects[name])


LOW, HIGH = np.float32([0.2, -0.3, 0.0]), np.float32([0.6, 0.3, 0.5])
REACH = Reach(LOW, HIGH, np.float32([0.0, 1.0, 0.0, 0.0]))
LAST = Commanded(np.float32([0.4, 0.0, 0.2]), np.float32([0.0, 0.96, 0.28, 0.0]), np.float32(0.5))
MEASURED = Pose(np.float32([0.3, 0.1, 0.1]), np.float32([0.0, 0.8, 0.6, 0.0]))
TURNING = ActionSpec(
    mode="ee_delta",
    names=("x", "y", "z", "rx", "ry", "rz", "gripper"),
    scale=(0.025,) * 3 + (0.1,) * 3 + (1.0,),
    rate=10.0,
)


def jitted(spec: ActionSpec) -> Any:
    return jax.jit(lambda *args: advance_command(spec, *args))


def subset(*names: str, **changes: Any) -> ActionSpec:
    scale = dict(zip(TURNING.names, TURNING.scale, strict=True))
    return dataclasses.replace(
        TURNING, names=names, scale=tuple(scale[name] for name in names), **changes
    )


SPECS = {
    "3-D": subset("x", "y", "z"),
    "4-D": ACTION,
    "4-D measured": dataclasses.replace(ACTION, base="measured"),
    "4-D tool": dataclasses.replace(ACTION, frame="tool"),
    "5-D": subset("x", "y", "z", "rz", "gripper"),
    "6-D": subset("x", "y", "z", "rx", "ry", "rz"),
    "7-D": TURNING,
    "7-D measured": dataclasses.replace(TURNING, base="measured"),
    "7-D tool": dataclasses.replace(TURNING, frame="tool"),
    "7-D limited": dataclasses.replace(TURNING, frame="tool", base="measured", turn_limit=0.3),
}


@pytest.mark.parametrize("name", SPECS)
def test_commands_agree_and_stay_in_reach(name: str) -> None:
    spec = SPECS[name]
    program = jitted(spec)
    rng = np.random.default_rng(1)
    for _ in range(300):
        action = rng.uniform(-1.5, 1.5, spec.dim).astype(np.float32)
        got = advance_command(spec, REACH, LAST, MEASURED, action)
        # What cannot turn is rounded as the compiler fuses it in training (`lock_step.py`).
        ulp = 0.0 if spec.turns or spec.frame == "tool" else 1e-7
        for ours, theirs in zip(got, program(REACH, LAST, MEASURED, action), strict=True):
            np.testing.assert_allclose(ours, np.asarray(theirs), rtol=0.0, atol=ulp)
        assert (got.position >= LOW).all() and (got.position <= HIGH).all()
        assert 0.0 <= got.closure <= 1.0
        start = LAST if spec.base == "target" else MEASURED
        longest = 0.025 if spec.frame == "world" else 0.025 * 3**0.5
        assert np.abs(got.position - start.position).max() <= longest + 1e-6
        assert abs(np.linalg.norm(got.quat.astype(np.float64)) - 1.0) < 1e-6


@settings(deadline=None)  # the first call compiles
@given(
    action=hnp.arrays(np.float32, 4, elements=st.floats(-3, 3, width=32)),
    base=st.sampled_from(["target", "measured"]),
)
def test_commands_agree_whatever_the_action(action: np.ndarray, base: str) -> None:
    spec = dataclasses.replace(ACTION, base=base)
    got = advance_command(spec, REACH, LAST, MEASURED, action)
    on_jax = advance_command(spec, *jax.tree.map(jnp.asarray, (REACH, LAST, MEASURED, action)))
    np.testing.assert_allclose(got.position, on_jax.position, atol=1e-7)
    np.testing.assert_allclose(got.closure, on_jax.closure, atol=1e-7)
    np.testing.assert_array_equal(got.quat, LAST.quat)


def rotation(quat: np.ndarray) -> np.ndarray:
    return quat_to_matrix(quat.tolist())


def test_steps_and_turns_are_along_the_frames_axes() -> None:
    """World: x moves along the world's x. Tool: along the tool's, as it is turned before."""
    action = np.float32([1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    before = rotation(LAST.quat)
    about_z = np.array([[np.cos(0.1), -np.sin(0.1), 0], [np.sin(0.1), np.cos(0.1), 0], [0, 0, 1]])
    world = advance_command(TURNING, REACH, LAST, MEASURED, action)
    np.testing.assert_allclose(world.position - LAST.position, [0.025, 0, 0], atol=1e-7)
    np.testing.assert_allclose(rotation(world.quat), about_z @ before, atol=1e-6)
    tool = advance_command(SPECS["7-D tool"], REACH, LAST, MEASURED, action)
    np.testing.assert_allclose(tool.position - LAST.position, 0.025 * before[:, 0], atol=1e-7)
    np.testing.assert_allclose(rotation(tool.quat), before @ about_z, atol=1e-6)


def test_a_turn_moves_nothing_and_a_step_turns_nothing() -> None:
    for name in ("7-D", "7-D tool"):
        turn, step = np.float32([0, 0, 0, 1, 1, 1, 0]), np.float32([1, 1, 1, 0, 0, 0, 0])
        turned = advance_command(SPECS[name], REACH, LAST, MEASURED, turn)
        np.testing.assert_array_equal(turned.position, LAST.position)
        stepped = advance_command(SPECS[name], REACH, LAST, MEASURED, step)
        np.testing.assert_allclose(rotation(stepped.quat), rotation(LAST.quat), atol=3e-7)


def test_what_an_action_lacks_stays_as_it_is() -> None:
    without = advance_command(SPECS["3-D"], REACH, LAST, MEASURED, np.ones(3, np.float32))
    assert without.closure == LAST.closure
    np.testing.assert_array_equal(without.quat, LAST.quat)
    yaw = advance_command(SPECS["5-D"], REACH, LAST, MEASURED, np.float32([0, 0, 0, 1, 0]))
    full = np.float32([0, 0, 0, 0, 0, 1, 0])
    np.testing.assert_array_equal(
        yaw.quat, advance_command(TURNING, REACH, LAST, MEASURED, full).quat
    )


def test_a_name_that_means_nothing_is_refused() -> None:
    spec = dataclasses.replace(ACTION, names=("x", "y", "yaw", "gripper"))
    with pytest.raises(KeyError, match="Unknown entry of an action 'yaw'.*Allowed: .*rz"):
        advance_command(spec, REACH, LAST, MEASURED, np.zeros(4, np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": (0.025,) * 3 + (1.5,) * 3 + (1.0,)}, "turns of 1.5 rad per action, allowed"),
        ({"turn_limit": 4.0}, "turn_limit 4.0, allowed: above 0 to pi"),
    ],
)
def test_turns_have_their_limits(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TURNING, **changes)


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


def test_what_contracts_gained_does_not_change_older_ones() -> None:
    """Written only where it differs from what older contracts meant, and read back as that."""
    data = to_json(dataclasses.replace(contract(), pace=Pace()))
    assert set(data["pace"]) == {"speed", "acceleration", "leash"}
    assert not {"frame", "turn_limit"} & set(data["action"])
    assert from_json(Contract, data).pace == Pace()
    turned = dataclasses.replace(contract(), action=TURNING)
    tool = dataclasses.replace(turned, action=SPECS["7-D tool"])
    assert len({digest(c) for c in (contract(), turned, tool)}) == 3
    assert from_json(Contract, to_json(tool)) == tool
