"""The simulated arm whose parameters are fitted: alone, without table contacts, on C MuJoCo.

It is compiled from the same RobotSpec by the same code as every task's scene, so that what is
fitted here means the same there.
"""

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float

from scenes.contract.robot import RobotSpec
from scenes.mjcf import to_mjspec
from scenes.mjcf_robot import EE_SITE, GRIPPER_ACTUATOR, PAYLOAD, ball_inertia
from scenes.specs import MountedArm, SceneSpec

# What is there at all can be fitted; so little of it changes nothing [kg].
_NO_PAYLOAD = 1e-9
FULL_STATE = mujoco.mjtState.mjSTATE_FULLPHYSICS.value


@dataclass(frozen=True, eq=False)
class ArmModel:
    """A compiled arm and where its joints are in it.

    Attributes:
        robot: that it was built from.
        model: MuJoCo's; its first keyframe is home.
        qpos: places of the joints in qpos; `dofs` in qvel, `drives` among the actuators.
        scratch: what a variant's constants are computed in.
    """

    robot: RobotSpec
    model: mujoco.MjModel
    qpos: Float[np.ndarray, " J"]
    dofs: Float[np.ndarray, " J"]
    drives: Float[np.ndarray, " J"]
    scratch: mujoco.MjData

    @property
    def dt(self) -> float:
        """Physics step [s]."""
        return float(self.model.opt.timestep)

    def variant(self, values: Mapping[str, Float[np.ndarray, " J"]]) -> mujoco.MjModel:
        """The model with other dynamics: kp, kd, damping, friction_loss, armature, payload."""
        model = copy.copy(self.model)
        for name, value in values.items():
            _WRITERS[name](self, model, value)
        # What contacts and friction are scaled by follows the masses.
        mujoco.mj_setConst(model, self.scratch)
        return model

    def start(
        self, q: Float[np.ndarray, " J"], dq: Float[np.ndarray, " J"], width: float
    ) -> Float[np.ndarray, " S"]:
        """Full physics state at joint positions [rad], velocities [rad/s] and an opening [m]."""
        data = mujoco.MjData(self.model)
        mujoco.mj_resetDataKeyframe(self.model, data, 0)
        data.qpos[self.qpos], data.qvel[self.dofs] = q, dq
        if self.robot.gripper is not None:
            data.qpos[[i for i in range(self.model.nq) if i not in self.qpos]] = 0.5 * width
        state = np.empty(mujoco.mj_stateSize(self.model, FULL_STATE))
        mujoco.mj_getState(self.model, data, state, FULL_STATE)
        return state

    def controls(self, q: Float[np.ndarray, "T J"], width: float) -> Float[np.ndarray, "T nu"]:
        """Controls of joint targets [rad], the gripper at an opening [m]."""
        ctrl = np.repeat(self.model.key_ctrl[:1], len(q), axis=0)
        ctrl[:, self.drives] = q
        if self.robot.gripper is not None:
            ctrl[:, self.model.actuator(GRIPPER_ACTUATOR).id] = 0.5 * width
        return ctrl


def build_arm_model(robot: RobotSpec, *, sim_dt: float) -> ArmModel:
    """Compile a robot alone, with friction and a payload that can be set."""
    carrying = dataclasses.replace(robot, payload=robot.payload or _NO_PAYLOAD)
    scene = SceneSpec(name="sysid", arms=(MountedArm(robot=carrying),), sim_dt=sim_dt)
    builder = to_mjspec(scene)
    # Recorded arms swing freely: nothing is there to touch.
    builder.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONTACT
    # A task's eight iterations now and then end 1e-5 rad early, which hides what a parameter does.
    builder.option.iterations = builder.option.ls_iterations = 50
    builder.option.tolerance = 1e-12
    model = builder.compile()
    joints = [model.joint(name) for name in robot.joint_names]
    return ArmModel(
        robot=robot,
        model=model,
        qpos=np.array([int(joint.qposadr[0]) for joint in joints]),
        dofs=np.array([int(joint.dofadr[0]) for joint in joints]),
        drives=np.array([model.actuator(name).id for name in robot.joint_names]),
        scratch=mujoco.MjData(model),
    )


def tool_site(model: mujoco.MjModel) -> int:
    """The site at the tool centre."""
    return int(model.site(EE_SITE).id)


def _kp(arm: ArmModel, model: mujoco.MjModel, value: np.ndarray) -> None:
    model.actuator_gainprm[arm.drives, 0] = value
    model.actuator_biasprm[arm.drives, 1] = -value


def _kd(arm: ArmModel, model: mujoco.MjModel, value: np.ndarray) -> None:
    model.actuator_biasprm[arm.drives, 2] = -value


def _damping(arm: ArmModel, model: mujoco.MjModel, value: np.ndarray) -> None:
    model.dof_damping[arm.dofs] = value


def _friction(arm: ArmModel, model: mujoco.MjModel, value: np.ndarray) -> None:
    model.dof_frictionloss[arm.dofs] = value


def _armature(arm: ArmModel, model: mujoco.MjModel, value: np.ndarray) -> None:
    model.dof_armature[arm.dofs] = value


def _payload(arm: ArmModel, model: mujoco.MjModel, value: np.ndarray) -> None:
    del arm
    body, mass = model.body(PAYLOAD).id, max(float(value[0]), _NO_PAYLOAD)
    model.body_mass[body] = mass
    model.body_inertia[body] = ball_inertia(mass)


_WRITERS = {
    "kp": _kp,
    "kd": _kd,
    "damping": _damping,
    "friction_loss": _friction,
    "armature": _armature,
    "payload": _payload,
}
