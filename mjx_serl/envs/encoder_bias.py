"""What an arm measures of itself where its joint encoders read too much."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mjx_serl.envs.physics.protocol import SimState
from scenes.build import Scene
from scenes.contract.quaternions import exponential, product
from scenes.contract.rotations import quats_to_matrices


def measured(
    scene: Scene, sim: SimState, jacobian: Float[Array, "6 J"], bias: Float[Array, " J"]
) -> SimState:
    """Return the state with the joints and the end effector as the encoders say they are.

    The end effector is moved and turned by the Jacobian times the bias: of 10 mrad in each joint
    of a Panda that is within 0.1 mm of the kinematics. Objects, and other bodies of the arm, are
    where they are.

    Args:
        scene: of one arm.
        sim: as it is.
        jacobian: of the end effector, linear over angular.
        bias: of the joints [rad].
    """
    arm, model = scene.arm, scene.model
    site = arm.ee_site_id
    body = int(model.site_bodyid[site])
    move = jacobian @ bias
    turn = exponential(move[3:])
    mat = quats_to_matrices(turn) @ sim.site_xmat[site].reshape(3, 3)
    return sim.replace(
        qpos=sim.qpos.at[jnp.asarray(arm.qpos_ids)].add(bias),
        site_xpos=sim.site_xpos.at[site].add(move[:3]),
        site_xmat=sim.site_xmat.at[site].set(mat.reshape(9)),
        xquat=sim.xquat.at[body].set(product(turn, sim.xquat[body])),
    )
