"""The gate: what is refused, what is cut, and that nothing refused leaves a trace."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from robot_bridge.driver import ArmState, Mode
from robot_bridge.messages import Command, Goal
from robot_bridge.reasons import Reason
from robot_bridge.safety.command_check import ActionGate
from robot_bridge.safety.kinematics import quat_to_vector
from robot_bridge.safety.limits import Limits, default_limits, tighten
from scenes.contract.policy_contract import Contract, IkSpec
from scenes.contract.rotations import multiply_quats
from scenes.contract.specs import ActionSpec, ObsSpec
from scenes.robots import robot_named

NOW = 100.0


def contract(base="target") -> Contract:
    robot = robot_named("fr3")
    action = ActionSpec(
        mode="ee_delta",
        names=("x", "y", "z", "gripper"),
        scale=(0.025, 0.025, 0.025, 1.0),
        rate=10.0,
        base=base,
    )
    return Contract(
        robot=robot,
        obs=ObsSpec(fields=()),
        action=action,
        ik=IkSpec(rate=40.0, damping=1e-3, max_joint_step=0.15),
        home=robot.home,
        episode_steps=100,
    )


LIMITS = default_limits(robot_named("fr3"))


@pytest.fixture
def gate() -> ActionGate:
    return ActionGate(contract(), LIMITS)


def command(actions=None, **changes) -> Command:
    actions = np.zeros((1, 4)) if actions is None else actions
    return replace(Command(seq=1, t=NOW, actions=actions, dt=0.1, valid_for=0.25), **changes)


def goal(position=(0.4, 0.0, 0.3), closure=0.0) -> Goal:
    return Goal(position=np.array(position), quat=np.array([0.0, 1, 0, 0]), closure=closure)


def state(position=(0.4, 0.0, 0.3)) -> ArmState:
    q = np.zeros(7)
    return ArmState(
        t=NOW, seq=0, q=q, dq=q, position=np.array(position), quat=np.array([0.0, 1, 0, 0]),
        gripper_width=0.08, mode=Mode.MOVING,
    )  # fmt: skip


def test_actions_that_no_arm_is_driven_by_are_refused():
    joints = replace(contract().action, mode="joint_delta", names=("j1", "j2", "j3", "gripper"))
    with pytest.raises(
        ValueError, match="actions are 'joint_delta', .* allowed: ee_delta, ee_delta_osc"
    ):
        ActionGate(replace(contract(), action=joints), LIMITS)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(gate: ActionGate, bad: float):
    actions = np.zeros((3, 4), np.float32)
    actions[2, 1] = bad
    assert gate.admit(command(actions), NOW) == Reason.NOT_FINITE


@pytest.mark.parametrize(
    "actions",
    [
        np.zeros(4),
        np.zeros((1, 3)),
        np.zeros((1, 7)),
        np.zeros((0, 4)),
        np.zeros((101, 4)),
        np.zeros((1, 1, 4)),
        np.zeros((1, 4), np.int32),
        np.zeros((1, 4), bool),
        np.zeros((1, 4), complex),
        np.zeros((1, 4), object),
        [[0.0] * 4],
        None,
    ],
)
def test_bad_shape(gate: ActionGate, actions):
    wrong = replace(command(), actions=actions)
    assert gate.admit(wrong, NOW) == Reason.BAD_SHAPE


@pytest.mark.parametrize("shape", [(1, 4), (100, 4)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_well_formed(gate: ActionGate, shape, dtype):
    assert gate.admit(command(np.ones(shape, dtype)), NOW) == Reason.NONE


@pytest.mark.parametrize(
    "changes",
    [
        {"t": NOW - 0.26},
        {"t": NOW + 0.1},
        {"t": NOW - 0.1, "valid_for": 0.05},
        {"valid_for": -1.0},
        {"dt": 0.0},
        {"seq": -1},
    ],
)
def test_old_or_from_the_future(gate: ActionGate, changes):
    assert gate.admit(command(**changes), NOW) == Reason.OLD_COMMAND


@pytest.mark.parametrize("name", ["t", "dt", "valid_for"])
def test_times_are_numbers(gate: ActionGate, name: str):
    assert gate.admit(command(**{name: np.nan}), NOW) == Reason.NOT_FINITE


def test_each_command_once(gate: ActionGate):
    assert gate.admit(command(seq=5), NOW) == Reason.NONE
    assert gate.admit(command(seq=5), NOW) == Reason.OLD_COMMAND
    assert gate.admit(command(seq=4), NOW) == Reason.OLD_COMMAND
    assert gate.admit(command(seq=4, source="operator"), NOW) == Reason.NONE
    assert gate.admit(command(seq=6), NOW) == Reason.NONE
    gate.reset()
    assert gate.admit(command(seq=0), NOW) == Reason.NONE


def test_a_refused_command_blocks_nothing(gate: ActionGate):
    gate.admit(command(np.full((1, 4), np.nan), seq=10**9), NOW)
    gate.admit(command(seq=10**9, t=NOW - 9), NOW)
    assert gate.admit(command(seq=1), NOW) == Reason.NONE


def test_clipping_is_said_and_does_not_refuse(gate: ActionGate):
    reasons = gate.admit(command(np.full((1, 4), 1.5)), NOW)
    assert reasons == Reason.ACTION_CLIPPED
    assert not reasons & gate.REJECTING


def test_a_full_action_passes_unchanged(gate: ActionGate):
    after, reasons = gate.advance(goal(), state(), np.array([1.0, -1.0, 1.0, 1.0], np.float32))
    np.testing.assert_allclose(after.position, [0.425, -0.025, 0.325], atol=1e-7)
    assert after.closure == 1.0 and reasons == Reason.NONE


def test_actions_are_clipped(gate: ActionGate):
    after, reasons = gate.advance(goal(), state(), np.array([9.0, 0.0, 0.0, -9.0]))
    np.testing.assert_allclose(after.position, [0.425, 0.0, 0.3], atol=1e-7)
    assert after.closure == 0.0 and reasons == Reason.ACTION_CLIPPED


def test_steps_are_cut():
    gate = ActionGate(contract(), tighten(LIMITS, step_position=0.01))
    after, reasons = gate.advance(goal(), state(), np.array([1.0, -0.2, 0.0, 0.0]))
    np.testing.assert_allclose(after.position, [0.41, -0.005, 0.3], atol=1e-7)
    assert reasons == Reason.STEP_LIMITED


def test_a_goal_outside_the_box_comes_back_step_by_step(gate: ActionGate):
    after, reasons = gate.advance(goal((0.9, 0.0, 0.3)), state(), np.zeros(4))
    np.testing.assert_allclose(after.position, [0.875, 0.0, 0.3])
    assert reasons == Reason.STEP_LIMITED


def test_measured_base():
    gate = ActionGate(contract("measured"), LIMITS)
    after, _ = gate.advance(goal(), state((0.5, 0.1, 0.2)), np.array([1.0, 0, 0, 0]))
    np.testing.assert_allclose(after.position, [0.525, 0.1, 0.2], atol=1e-7)
    before = goal()
    after, reasons = gate.advance(before, state((np.nan, 0.1, 0.2)), np.zeros(4))
    assert after is before and reasons == Reason.NOT_FINITE


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        ("wrench", ("fx",)),  # franka/egg_flip
        ("joint_delta", ("joint1",)),  # piper/mobile_pick
        ("ee_delta_legged", ("x", "base_x")),  # go2_piper/pick
    ],
)
def test_what_moves_no_arms_tool_centre_is_refused(mode, names):
    action = ActionSpec(mode=mode, names=names, scale=(1.0,) * len(names), rate=10.0)
    said = f"'{mode}', which no arm is driven by; allowed: ee_delta, ee_delta_osc"
    with pytest.raises(ValueError, match=said):
        ActionGate(replace(contract(), action=action), LIMITS)


# -- turns ---------------------------------------------------------------------------------------


def turning(limits: Limits = LIMITS, **changes) -> ActionGate:
    """A gate for actions that turn by up to 0.1 rad about each axis."""
    action = ActionSpec(
        mode="ee_delta",
        names=("x", "y", "z", "rx", "ry", "rz", "gripper"),
        scale=(0.025,) * 3 + (0.1,) * 3 + (1.0,),
        rate=10.0,
    )
    return ActionGate(replace(contract(), action=replace(action, **changes)), limits)


def turned(before: Goal, after: Goal) -> np.ndarray:
    """Rotation vector from one goal to another, in the world's frame [rad]."""
    back = before.quat * [1.0, -1.0, -1.0, -1.0]
    return np.array(quat_to_vector(multiply_quats(np.float64(after.quat), back).tolist()))


def test_a_full_turn_passes_unchanged():
    after, reasons = turning().advance(goal(), state(), np.float32([0, 0, 0, 1, -1, 1, 0]))
    np.testing.assert_allclose(turned(goal(), after), [0.1, -0.1, 0.1], atol=1e-6)
    np.testing.assert_array_equal(after.position, np.float32(goal().position))
    assert reasons == Reason.NONE


@pytest.mark.parametrize("frame", ["world", "tool"])
def test_turns_are_cut(frame: str):
    gate = turning(tighten(LIMITS, step_rotation=0.04), frame=frame)
    after, reasons = gate.advance(goal(), state(), np.float32([0, 0, 0, 1, 0.3, 0, 0]))
    # The fingers point down: the tool's y is the world's -y.
    sign = 1.0 if frame == "world" else -1.0
    np.testing.assert_allclose(turned(goal(), after), [0.04, sign * 0.03, 0], atol=1e-6)
    assert reasons == Reason.STEP_LIMITED


def test_steps_along_the_tools_axes_are_cut():
    gate = turning(tighten(LIMITS, step_position=0.01), frame="tool")
    after, reasons = gate.advance(goal(), state(), np.float32([1, 0, 1, 0, 0, 0, 0]))
    np.testing.assert_allclose(after.position, [0.41, 0.0, 0.29], atol=1e-6)
    assert reasons == Reason.STEP_LIMITED


def test_a_goal_turned_beyond_its_limit_comes_back_turn_by_turn():
    gate, away = turning(turn_limit=0.2), Goal(
        position=goal().position, quat=np.array([0.0, np.cos(0.5), np.sin(0.5), 0.0]), closure=0.0
    )  # fmt: skip
    after, reasons = gate.advance(away, state(), np.zeros(7))
    assert np.linalg.norm(turned(away, after)) == pytest.approx(0.1 * 3**0.5, rel=1e-4)
    assert np.linalg.norm(turned(goal(), after)) < np.linalg.norm(turned(goal(), away))
    assert reasons == Reason.STEP_LIMITED


def test_a_turn_from_an_orientation_that_is_none_changes_nothing():
    before, nowhere = goal(), replace(state(), quat=np.full(4, np.nan))
    after, reasons = turning(base="measured").advance(before, nowhere, np.zeros(7))
    assert after is before and reasons == Reason.NOT_FINITE


@given(
    arrays.arrays(np.float32, 7, elements=st.floats(-3, 3, width=32)),
    st.sampled_from(["world", "tool"]),
    st.sampled_from([0.02, 0.05, 0.1]),
)
def test_no_action_turns_further_than_a_step(action: np.ndarray, frame: str, widest: float):
    gate = turning(tighten(LIMITS, step_rotation=widest), frame=frame)
    after, reasons = gate.advance(goal(), state(), action)
    turn = np.abs(turned(goal(), after))
    assert turn.max() <= widest * (1 + 1e-4) + 1e-6
    assert abs(np.linalg.norm(after.quat) - 1.0) < 1e-6
    assert bool(reasons & Reason.STEP_LIMITED) == bool(
        (np.abs(action[3:6]).clip(0, 1) * 0.1 > widest * (1 + 1e-6)).any()
    )


@given(
    arrays.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, bool]),
        arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6),
    ),
    st.floats(),
    st.floats(),
    st.integers(),
)
def test_whatever_is_admitted_is_well_formed(actions, t, valid_for, seq):
    gate = ActionGate(contract(), LIMITS)
    given_ = command(actions, t=t, valid_for=valid_for, seq=seq)
    if gate.admit(given_, NOW) & gate.REJECTING:
        return
    assert actions.ndim == 2 and actions.shape[1] == 4 and np.isfinite(actions).all()
    assert -0.02 <= NOW - t <= 0.25
    for action in actions:
        after, _ = gate.advance(goal(), state(), action)
        assert np.abs(after.position - goal().position).max() <= 0.025 * (1 + 1e-6)
