"""pyroki retargets tool paths, and is the oracle of our own inverse kinematics."""

import numpy as np
import pytest

from robot_bridge.safety.kinematics import Chain
from scenes.contract.policy_contract import FINGERS_DOWN
from scenes.retarget import Retargeted, retarget
from scenes.robots import robot_named

NUM_POSES = 12


@pytest.fixture(scope="module")
def chain() -> Chain:
    return Chain(robot_named("fr3"))


@pytest.fixture(scope="module")
def reachable(chain: Chain) -> np.ndarray:
    """Joint positions along a smooth random path [rad]."""
    rng = np.random.default_rng(0)
    ends = rng.uniform(chain.low + 0.5, chain.high - 0.5, (2, len(chain.low)))
    share = np.linspace(0.0, 1.0, NUM_POSES)[:, None]
    return ends[0] * (1 - share) + ends[1] * share


@pytest.fixture(scope="module")
def solved(chain: Chain, reachable: np.ndarray) -> Retargeted:
    poses = [chain.forward(q) for q in reachable]
    positions, quats = (np.asarray(rows) for rows in zip(*poses, strict=True))
    return retarget(robot_named("fr3"), positions, quats, start=tuple(reachable[0]))


def test_a_path_is_retargeted_and_our_kinematics_agree(
    chain: Chain, reachable: np.ndarray, solved: Retargeted
) -> None:
    assert solved.reached().all()
    for q, theirs in zip(reachable, solved.q, strict=True):
        position, quat = chain.forward(q)
        reached, turned = chain.forward(theirs)
        np.testing.assert_allclose(reached, position, atol=5e-4)
        assert abs(turned @ quat) > 1 - 1e-5
        assert (theirs > chain.low - 1e-3).all() and (theirs < chain.high + 1e-3).all()


def test_our_damped_least_squares_reaches_pyrokis_poses(chain: Chain, solved: Retargeted) -> None:
    rng = np.random.default_rng(1)
    for q in solved.q:
        position, quat = chain.forward(q)
        start = np.clip(q + rng.uniform(-0.2, 0.2, len(q)), chain.low, chain.high)
        ours = chain.solve(position, quat, start=start)
        assert ours.position_error < 1e-7 and ours.rotation_error < 1e-7


def test_a_pandas_reach_over_the_table_goes_to_a_piper_where_it_can() -> None:
    """The near half is within the smaller arm's reach, the far half is not, and it says which."""
    xs = np.linspace(0.22, 0.6, 8)
    positions = np.stack([xs, np.zeros(8), np.full(8, 0.05)], -1)
    found = retarget(robot_named("piper"), positions, np.tile(FINGERS_DOWN, (8, 1)))
    reached = found.reached(position=2e-3, rotation=0.02)
    assert reached[:2].all() and not reached[-2:].any()


def test_paths_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[T, 3\] and \[T, 4\]"):
        retarget(robot_named("fr3"), np.zeros((2, 3)), np.zeros((3, 4)))
