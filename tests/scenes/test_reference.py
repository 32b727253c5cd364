"""Our Panda against the one in the gym-hil wheel: 1,000 recorded poses."""

from pathlib import Path

import mujoco
import numpy as np
import pytest
from jaxtyping import Float

from scenes.build import Scene, build_scene
from scenes.worlds import pick_cube

FIXTURE = Path(__file__).parent / "data" / "panda_reference.npz"
OURS = {"link4": "link4", "link7": "link7", "attachment": "hand"}
# Taken by sha256sum from gym-hil 0.1.13's panda.xml, so that the fixture says what it was made of.
SHA256 = "0b49ce1ae40c4e656ec72e736656e704fff7a6182d2717841d3d7f74533b2679"


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    """The recorded arrays."""
    with np.load(FIXTURE, allow_pickle=False) as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def arm_alone() -> Scene:
    """Our Panda with a hand that weighs nothing: the reference has no gripper."""
    scene = build_scene(pick_cube())
    hand = [scene.arm.hand_body_id, *scene.arm.finger_body_ids]
    scene.model.body_mass[hand] = 0.0
    scene.model.body_inertia[hand] = 0.0
    return scene


def _pose(scene: Scene, q: Float[np.ndarray, "J"]) -> mujoco.MjData:
    data = mujoco.MjData(scene.model)
    data.qpos[scene.arm.qpos_ids] = q
    mujoco.mj_forward(scene.model, data)
    return data


def _mass_matrix(scene: Scene, data: mujoco.MjData) -> Float[np.ndarray, "J J"]:
    full = np.zeros((scene.model.nv, scene.model.nv))
    mujoco.mj_fullM(scene.model, data, full)
    return full[np.ix_(scene.arm.dof_ids, scene.arm.dof_ids)]


def test_fixture_names_its_source(reference: dict[str, np.ndarray]) -> None:
    assert str(reference["source"]) == "gym-hil 0.1.13"
    assert str(reference["sha256"]) == SHA256
    assert reference["q"].shape == (1000, 7)


def test_forward_kinematics_within_a_tenth_of_a_millimetre(
    arm_alone: Scene, reference: dict[str, np.ndarray]
) -> None:
    ids = [arm_alone.model.body(OURS[str(name)]).id for name in reference["bodies"]]
    worst = max(
        np.abs(_pose(arm_alone, q).xpos[ids] - pos).max()
        for q, pos in zip(reference["q"], reference["pos"], strict=True)
    )
    assert worst < 1e-4


def test_orientation_within_a_ten_thousandth_of_a_radian(
    arm_alone: Scene, reference: dict[str, np.ndarray]
) -> None:
    # The last entry is the wheel's own gripper mount, turned otherwise than the Franka Hand.
    ids = [arm_alone.model.body(OURS[str(name)]).id for name in reference["bodies"][:2]]
    for q, quats in zip(reference["q"], reference["quat"], strict=True):
        data = _pose(arm_alone, q)
        for body, quat in zip(ids, quats, strict=False):
            error = np.zeros(3)
            mujoco.mju_subQuat(error, data.xquat[body], quat)
            assert np.linalg.norm(error) < 1e-4


def test_mass_matrix_within_two_percent(arm_alone: Scene, reference: dict[str, np.ndarray]) -> None:
    """Relative Frobenius error of each of the 1,000 matrices, armature included on both sides."""
    upper = np.triu_indices(7)
    for q, mass in zip(reference["q"], reference["mass"], strict=True):
        expected = np.zeros((7, 7))
        expected[upper] = mass
        expected = expected + np.triu(expected, 1).T
        got = _mass_matrix(arm_alone, _pose(arm_alone, q))
        assert np.linalg.norm(got - expected) < 0.02 * np.linalg.norm(expected)


def test_a_wrong_inertia_is_noticed(arm_alone: Scene, reference: dict[str, np.ndarray]) -> None:
    """The 2 % bound has teeth: the weight of the hand alone breaks it."""
    with_hand = build_scene(pick_cube())
    q = reference["q"][0]
    bare = _mass_matrix(arm_alone, _pose(arm_alone, q))
    loaded = _mass_matrix(with_hand, _pose(with_hand, q))
    assert np.linalg.norm(loaded - bare) > 0.02 * np.linalg.norm(bare)
