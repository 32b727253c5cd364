"""What is refused of a robot file that is not ours, each with what to name or change."""

from collections.abc import Iterable, Sequence

import mujoco
import numpy as np

from scenes.contract.names import unknown_name
from scenes.roles import ArmRoles


def require_names(
    kind: str, wanted: Iterable[str], there: Sequence[str], where: str, *, hint: str = ""
) -> None:
    """Raise KeyError for a name that the file does not have, with those that it has."""
    for name in wanted:
        if name not in there:
            text = unknown_name(kind, name, [entry for entry in there if entry])
            raise KeyError(f"{where}: {text}{hint}")


def check_chain(model: mujoco.MjModel, roles: ArmRoles) -> None:
    """Raise ValueError unless each joint is a limited hinge at its body's origin, in a chain."""
    above = None
    for name in roles.joints:
        joint = int(model.joint(name).id)
        body = int(model.jnt_bodyid[joint])
        if model.jnt_type[joint] != mujoco.mjtJoint.mjJNT_HINGE:
            raise ValueError(f"Joint '{name}' does not turn; an arm here is a chain of hinges.")
        # Our Jacobians take the joint to be where its body is.
        if np.abs(model.jnt_pos[joint]).max() > 1e-9 or model.body_jntnum[body] != 1:
            raise ValueError(
                f"Joint '{name}': body '{model.body(body).name}' must have this one joint, at its "
                "origin (pos 0 0 0); split the body or move its frame."
            )
        if not model.jnt_limited[joint]:
            raise ValueError(f"Joint '{name}' has no range in the file; give it one there.")
        if above is not None and above not in _ancestors(model, body):
            raise ValueError(
                f"Joint '{name}' is not below the one named before it; "
                "name the arm's joints from the base on."
            )
        above = body


def check_drives(model: mujoco.MjModel, actuators: Sequence[int]) -> bool:
    """Whether the actuators take positions; ValueError where they take neither these nor torques.

    A position drive's control is a joint position [rad]; a motor's is a torque [N m].
    """
    kinds = set()
    for i in actuators:
        gain, stiffness = model.actuator_gainprm[i, 0], -model.actuator_biasprm[i, 1]
        position = stiffness > 0 and abs(gain - stiffness) < 1e-6 * stiffness
        motor = not model.actuator_biasprm[i, :3].any() and gain == 1.0
        plain = (
            model.actuator_gaintype[i] == mujoco.mjtGain.mjGAIN_FIXED
            and model.actuator_dyntype[i] == mujoco.mjtDyn.mjDYN_NONE
            and model.actuator_gear[i, 0] == 1.0
        )
        if not plain or not (position or motor):
            raise ValueError(
                f"Actuator '{model.actuator(i).name}' takes neither a joint position nor a torque; "
                "allowed: <position>, <motor>, or the like in <general>, gear 1."
            )
        kinds.add(position)
    if len(kinds) > 1:
        raise ValueError("The arm's actuators must all take positions or all take torques.")
    return bool(kinds.pop())


def _ancestors(model: mujoco.MjModel, body: int) -> set[int]:
    found = set()
    while body:
        body = int(model.body_parentid[body])
        found.add(body)
    return found
