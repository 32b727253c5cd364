"""pyroki as oracle: its inverse kinematics through our forward kinematics, and the other way."""

import functools
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import jaxlie
import jaxls
import numpy as np
import pyroki
import pytest
import yourdfpy

from robot_bridge.kinematics import Chain
from scenes.robots import robot_named
from scenes.rotations import multiply_quats
from scenes.specs import RobotSpec

NUM_POSES = 12


def euler(quat: np.ndarray) -> str:
    """Roll, pitch and yaw [rad] as URDF writes them."""
    w, x, y, z = quat / np.linalg.norm(quat)
    roll = np.arctan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    pitch = np.arcsin(np.clip(2 * (w * y - z * x), -1, 1))
    yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    return f"{roll:.17g} {pitch:.17g} {yaw:.17g}"


def urdf(robot: RobotSpec) -> str:
    """The kinematics of a robot as URDF, tool centre as the link `tool`."""
    root = ElementTree.Element("robot", name=robot.name)
    for link in robot.links:
        ElementTree.SubElement(root, "link", name=link.name)
    ElementTree.SubElement(root, "link", name="tool")
    for i, link in enumerate(robot.links[1:]):
        joint = add_joint(root, robot.joint_names[i], "revolute", robot.links[i].name, link.name)
        place(joint, link.pos, np.asarray(link.quat))
        ElementTree.SubElement(joint, "axis", xyz="0 0 1")
        low, high = f"{robot.q_min[i]}", f"{robot.q_max[i]}"
        speed, effort = f"{robot.dq_max[i]}", f"{robot.tau_max[i]}"
        ElementTree.SubElement(joint, "limit", lower=low, upper=high, velocity=speed, effort=effort)
    quat = np.asarray(robot.ee_quat)
    point = np.array([0.0, *robot.ee_pos])
    turned = multiply_quats(multiply_quats(quat, point), quat * [1, -1, -1, -1])[1:]
    fixed = add_joint(root, "tool_joint", "fixed", robot.links[-1].name, "tool")
    place(fixed, tuple(np.asarray(robot.flange_pos) + turned), quat)
    return ElementTree.tostring(root, encoding="unicode")


def add_joint(root, name: str, kind: str, parent: str, child: str):
    joint = ElementTree.SubElement(root, "joint", name=name, type=kind)
    ElementTree.SubElement(joint, "parent", link=parent)
    ElementTree.SubElement(joint, "child", link=child)
    return joint


def place(joint, pos, quat: np.ndarray) -> None:
    xyz = " ".join(f"{x:.17g}" for x in pos)
    ElementTree.SubElement(joint, "origin", xyz=xyz, rpy=euler(quat))


@pytest.fixture(scope="module")
def fr3() -> RobotSpec:
    return robot_named("fr3")


@pytest.fixture(scope="module")
def oracle(fr3: RobotSpec, tmp_path_factory) -> pyroki.Robot:
    path = tmp_path_factory.mktemp("urdf") / "fr3.urdf"
    path.write_text(urdf(fr3))
    return pyroki.Robot.from_urdf(yourdfpy.URDF.load(str(path), load_meshes=False))


@pytest.fixture(scope="module")
def reachable(fr3: RobotSpec) -> np.ndarray:
    rng, chain = np.random.default_rng(0), Chain(fr3)
    return rng.uniform(chain.low + 0.3, chain.high - 0.3, (NUM_POSES, fr3.num_joints))


def tool_index(oracle: pyroki.Robot) -> jax.Array:
    return jnp.asarray(oracle.links.names.index("tool"))


@functools.partial(jax.jit, static_argnames=())
def solve(robot: pyroki.Robot, link: jax.Array, pose: jaxlie.SE3, start: jax.Array) -> jax.Array:
    """Joint positions for a pose, from a start, with pyroki's costs [J]."""
    joints = robot.joint_var_cls(0)
    costs = [
        pyroki.costs.pose_cost_analytic_jac(robot, joints, pose, link, 50.0, 10.0),
        pyroki.costs.limit_cost(robot, joints, weight=100.0),
    ]
    problem = jaxls.LeastSquaresProblem(costs, [joints]).analyze()
    begin = jaxls.VarValues.make([joints.with_value(start)])
    return problem.solve(begin, verbose=False, linear_solver="dense_cholesky")[joints]


def test_forward_kinematics_agree(fr3: RobotSpec, oracle: pyroki.Robot, reachable: np.ndarray):
    chain, link = Chain(fr3), int(tool_index(oracle))
    poses = np.asarray(oracle.forward_kinematics(jnp.asarray(reachable, jnp.float32)))[:, link]
    for q, pose in zip(reachable, poses, strict=True):
        position, quat = chain.forward(q)
        np.testing.assert_allclose(position, pose[4:], atol=5e-6)  # float32 over seven links
        assert abs(quat @ pose[:4]) == pytest.approx(1.0, abs=1e-6)


def test_inverse_kinematics_agree(fr3: RobotSpec, oracle: pyroki.Robot, reachable: np.ndarray):
    """Both reach each pose from the same start, and each other's joints give the same pose."""
    chain, rng = Chain(fr3), np.random.default_rng(1)
    for q in reachable:
        position, quat = chain.forward(q)
        start = np.clip(q + rng.uniform(-0.2, 0.2, len(q)), chain.low, chain.high)
        pose = jaxlie.SE3(jnp.asarray(np.concatenate([quat, position]), jnp.float32))
        theirs = np.asarray(
            solve(oracle, tool_index(oracle), pose, jnp.asarray(start, jnp.float32)), np.float64
        )
        reached, turned = chain.forward(theirs)
        np.testing.assert_allclose(reached, position, atol=1e-4)
        assert abs(turned @ quat) > 1 - 1e-6
        ours = chain.solve(reached, turned, start=start)
        assert ours.position_error < 1e-7 and ours.rotation_error < 1e-7
