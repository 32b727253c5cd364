"""Where episodes start: joint poses from poses of the end effector."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mjx_serl.envs.control.kinematics import damped_gram, rotation_error, solve_spd
from scenes.build import Scene
from scenes.contract.rotations import Quat, quat_to_matrix

# From 20 cm and half a radian away, ten steps leave less than 0.1 mm (tests/tasks/test_resets.py).
_STEPS, _DAMPING = 10, 1e-4


def arm_pose(
    scene: Scene, position: Float[Array, " 3"], rotation: Float[Array, "3 3"]
) -> Float[Array, " J"]:
    """Return joint values [rad] that bring the end effector to a pose, near those of home.

    The pose must be within reach: outside, the result is only near it.

    Args:
        scene: of one arm on a base that does not move.
        position: in the world [m].
        rotation: matrix of the end effector in the world.
    """
    arm, model = scene.arm, scene.model
    home = jnp.asarray(model.key_qpos[0][arm.qpos_ids], jnp.float32)
    low, high = jnp.asarray(model.jnt_range[arm.joint_ids].T, jnp.float32)

    def step(_: int, q: Float[Array, " J"]) -> Float[Array, " J"]:
        at, axes, points, turned = _forward(scene, q)
        error = jnp.concatenate([position - at, rotation_error(rotation, turned)])
        jac = jnp.concatenate([jnp.cross(axes, at - points), axes], -1).T
        gram = damped_gram(jac, _DAMPING)
        return jnp.clip(q + jac.T @ solve_spd(gram, error), low, high)

    return jax.lax.fori_loop(0, _STEPS, step, home)


def turned_arm_pose(
    scene: Scene, position: Float[Array, " 3"], quat: Quat, yaw: Float[Array, ""]
) -> Float[Array, " J"]:
    """Return joint values [rad] as `arm_pose`, for an orientation (wxyz) turned by `yaw` [rad].

    Args:
        scene, position: as of `arm_pose`.
        quat: of the end effector in the world, wxyz.
        yaw: turn about the world's vertical [rad].
    """
    turn = _turn(np.array([0.0, 0.0, 1.0]), yaw)
    return arm_pose(scene, position, turn @ jnp.asarray(quat_to_matrix(quat), jnp.float32))


def _forward(
    scene: Scene, q: Float[Array, " J"]
) -> tuple[Float[Array, " 3"], Float[Array, "J 3"], Float[Array, "J 3"], Float[Array, "3 3"]]:
    """Return the end effector's place, the hinges' axes and places, the end effector's rotation."""
    arm, model = scene.arm, scene.model
    joint_of = {int(body): i for i, body in enumerate(arm.body_ids)}
    at, turned = jnp.zeros(3), jnp.eye(3)
    axes, points = [], []
    for body in _chain(scene):
        at = at + turned @ jnp.asarray(model.body_pos[body], jnp.float32)
        turned = turned @ jnp.asarray(quat_to_matrix(model.body_quat[body]), jnp.float32)
        if body in joint_of:
            i = joint_of[body]
            axis = model.jnt_axis[arm.joint_ids[i]]
            axes.append(turned @ jnp.asarray(axis, jnp.float32))
            points.append(at)
            turned = turned @ _turn(axis, q[i])
    site = arm.ee_site_id
    at = at + turned @ jnp.asarray(model.site_pos[site], jnp.float32)
    turned = turned @ jnp.asarray(quat_to_matrix(model.site_quat[site]), jnp.float32)
    return at, jnp.stack(axes), jnp.stack(points), turned


def _chain(scene: Scene) -> list[int]:
    """Bodies from the world to the one that carries the end effector."""
    model = scene.model
    chain, body = [], int(model.site_bodyid[scene.arm.ee_site_id])
    while body:
        chain.append(body)
        body = int(model.body_parentid[body])
    return chain[::-1]


def _turn(axis: Float[np.ndarray, " 3"], angle: Float[Array, ""]) -> Float[Array, "3 3"]:
    """Rotation about a constant axis, by Rodrigues' formula."""
    x, y, z = axis
    cross = jnp.asarray([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], jnp.float32)
    return jnp.eye(3) + jnp.sin(angle) * cross + (1.0 - jnp.cos(angle)) * (cross @ cross)
