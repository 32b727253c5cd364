"""Collision model: covers contain the geoms, distances vouch for their neighbourhood."""

import numpy as np
import pytest

from robot_bridge.safety.collision import CollisionModel, covering_capsule
from robot_bridge.safety.kinematics import Chain
from scenes.contract.robot import GeomSpec
from scenes.robots import ROBOTS, robot_named


@pytest.fixture(params=sorted(ROBOTS))
def robot(request):
    return robot_named(request.param)


@pytest.fixture
def model(robot) -> CollisionModel:
    return CollisionModel(robot, Chain(robot))


def surface(geom: GeomSpec, rng: np.random.Generator) -> np.ndarray:
    """Points on the geom [N, 3]."""
    unit = rng.normal(size=(300, 3))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    if geom.kind == "box":
        face = unit / np.abs(unit).max(axis=1, keepdims=True)
        return face * geom.size + geom.pos
    if geom.kind == "sphere":
        return unit * geom.size[0] + geom.pos
    start, end = np.asarray(geom.start), np.asarray(geom.end)
    axis = (end - start) / np.linalg.norm(end - start)
    if geom.kind == "cylinder":
        unit -= np.outer(unit @ axis, axis)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    along = rng.integers(0, 2, size=(300, 1)) + rng.choice([0.0, 0.3], size=(300, 1))
    return start + along.clip(0, 1) * (end - start) + unit * geom.size[0]


def test_spheres_cover_every_geom(robot):
    rng = np.random.default_rng(0)
    for geom in robot.geoms:
        centers, radius = covering_capsule(geom).spheres()
        gaps = np.linalg.norm(surface(geom, rng)[:, None] - centers, axis=2)
        assert gaps.min(axis=1).max() <= radius + 1e-9


def test_home_is_clear(robot, model: CollisionModel):
    assert model.distances(np.array([robot.home])).min() > 0.02


def test_distances_change_no_faster_than_their_reach(robot, model: CollisionModel):
    rng = np.random.default_rng(1)
    q = rng.uniform(robot.q_min, robot.q_max, (1500, robot.num_joints))
    near = q + rng.uniform(-0.1, 0.1, q.shape) * rng.integers(0, 2, q.shape)
    change = np.abs(model.distances(q) - model.distances(near))
    assert (change <= np.abs(q - near) @ model.reach.T + 1e-9).all()


def test_a_hand_in_the_table_is_seen(robot, model: CollisionModel):
    chain = Chain(robot)
    down = np.array([0.0, 1.0, 0.0, 0.0])
    x = 0.5 * (robot.workspace_low[0] + robot.workspace_high[0])
    above = chain.solve(np.array([x, 0.0, 0.03]), down)
    below = chain.solve(np.array([x, 0.0, -0.15]), down, start=above.q)
    assert above.position_error < 1e-6
    # The fingers may be near the table while the hand is not.
    assert model.distances(above.q[None]).min() > 0.02
    assert model.distances(below.q[None]).min() < 0.02


def test_a_panda_that_reaches_into_its_forearm_is_seen():
    robot = robot_named("panda")
    model, q = CollisionModel(robot, Chain(robot)), np.asarray(robot.home)
    folded = q.copy()
    folded[5] = robot.q_min[5]
    assert model.distances(q[None]).min() > 0.05
    assert model.distances(folded[None]).min() < 0.0
