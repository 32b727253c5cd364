"""The constants that mj_setConst derives from masses, inertias and armatures, for MJX.

Kinematics at qpos0 do not depend on them, so the Jacobians there are taken once from C MuJoCo and
the rest is small linear algebra. Not derived anew: `stat.meaninertia`, which only scales the
solver's tolerance, and what needs a tendon.
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float64

Fields = Mapping[str, Array]  # of a model, by MuJoCo's names, in their shapes


def make_constants(model: mujoco.MjModel) -> Callable[[Fields], dict[str, Array]]:
    """Return the function from changed fields to the constants that follow from them.

    It is given `body_mass`, `body_inertia` and `dof_armature` where they are changed, and returns
    `body_subtreemass`, `dof_M0`, `dof_invweight0` and `body_invweight0`.
    """
    linear, angular = _jacobians(model)
    below, mean = _below(model), _mean_over_joints(model)
    moving = np.asarray(model.body_weldid > 0, np.float32)[:, None]

    def constants(fields: Fields) -> dict[str, Array]:
        own = {
            name: fields.get(name, np.asarray(getattr(model, name), np.float32))
            for name in ("body_mass", "body_inertia", "dof_armature")
        }
        mass, inertia = jnp.asarray(own["body_mass"]), jnp.asarray(own["body_inertia"])
        whole = jnp.einsum("b,bkv,bkw->vw", mass, linear, linear)
        whole += jnp.einsum("bk,bkv,bkw->vw", inertia, angular, angular)
        whole += jnp.diag(jnp.asarray(own["dof_armature"]))
        inverse = jnp.linalg.inv(whole)
        weights = [
            jnp.einsum("bkv,vw,bkw->b", part, inverse, part) / 3.0 for part in (linear, angular)
        ]
        return {
            "body_subtreemass": jnp.asarray(below) @ mass,
            "dof_M0": jnp.diag(whole),
            "dof_invweight0": jnp.asarray(mean) @ jnp.diag(inverse),
            "body_invweight0": jnp.stack(weights, -1) * moving,
        }

    return constants


def _jacobians(model: mujoco.MjModel) -> tuple[Float64[np.ndarray, "nbody 3 nv"], ...]:
    """Jacobians of the bodies' centres of mass at qpos0, the angular ones in principal axes."""
    data = mujoco.MjData(model)
    data.qpos[:] = model.qpos0
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    linear = np.zeros((model.nbody, 3, model.nv))
    angular = np.zeros((model.nbody, 3, model.nv))
    for body in range(model.nbody):
        mujoco.mj_jacBodyCom(model, data, linear[body], angular[body], body)
        angular[body] = data.ximat[body].reshape(3, 3).T @ angular[body]
    return linear.astype(np.float32), angular.astype(np.float32)


def _below(model: mujoco.MjModel) -> Float64[np.ndarray, "nbody nbody"]:
    """1 where the second body is the first or hangs on it."""
    below = np.eye(model.nbody, dtype=np.float32)
    for body in range(model.nbody - 1, 0, -1):
        below[model.body_parentid[body]] += below[body]
    return below


def _mean_over_joints(model: mujoco.MjModel) -> Float64[np.ndarray, "nv nv"]:
    """Averages the three translations, and the three rotations, of a joint that has them."""
    mean = np.eye(model.nv, dtype=np.float32)
    threes = {int(mujoco.mjtJoint.mjJNT_FREE): 2, int(mujoco.mjtJoint.mjJNT_BALL): 1}
    for joint in range(model.njnt):
        for group in range(threes.get(int(model.jnt_type[joint]), 0)):
            first = int(model.jnt_dofadr[joint]) + 3 * group
            mean[first : first + 3, first : first + 3] = 1.0 / 3.0
    return mean
