"""A RobotSpec read off a compiled model: what tasks, controllers and the bridge ask of an arm.

The chain is written as ours are: one frame per joint, whose z is the joint's axis, so that the
bridge's kinematics holds for it. Masses of bodies that are welded together are put together.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from scenes.contract.robot import GripperSpec, LinkSpec, RobotSpec
from scenes.contract.rotations import Inertia, Quat, Vec3
from scenes.roles import ArmRoles, GripperRole

Array = NDArray[np.float64]

DQ_MAX, DDQ_MAX, JERK_MAX, TAU_MAX = 1.0, 5.0, 100.0, 100.0
_REACH = 0.2  # [m] half the box around the tool centre at home where none is given


@dataclass(frozen=True)
class Frame:
    """A frame in the world: rotation matrix [3, 3] and origin [m]."""

    mat: Array
    pos: Array

    def within(self, parent: "Frame") -> "Frame":
        """This frame in the axes of another."""
        return Frame(parent.mat.T @ self.mat, parent.mat.T @ (self.pos - parent.pos))

    @property
    def quat(self) -> Quat:
        """Orientation, wxyz."""
        quat = np.empty(4)
        mujoco.mju_mat2Quat(quat, self.mat.flatten())
        w, x, y, z = quat.tolist()
        return w, x, y, z

    @property
    def xyz(self) -> Vec3:
        """Origin [m] as a tuple."""
        return _vec3(self.pos)


@dataclass(frozen=True, eq=False)
class ArmReader:
    """An arm of a compiled model.

    Attributes:
        model: compiled, with the arm's actuators.
        roles: who is who.
        tool: name of the tool centre's site.
        actuators: ids, one per joint.
        home: joint pose at the start [rad].
        driven: whether the actuators take positions.
    """

    model: mujoco.MjModel
    roles: ArmRoles
    tool: str
    actuators: Sequence[int]
    home: tuple[float, ...]
    driven: bool

    def robot(self, name: str) -> tuple[RobotSpec, tuple[str, ...]]:
        """The spec of the arm, and what was assumed of it."""
        data = self._posed(np.zeros(len(self.roles.joints)))
        frames = self._frames(data)
        hand = self._hand()
        site = self.model.site(self.tool).id
        tool = Frame(data.site_xmat[site].reshape(3, 3), data.site_xpos[site]).within(frames[-1])
        limits, notes = self._limits()
        low, high, told = self._workspace(frames[0])
        roles = self.roles
        return RobotSpec(
            name=name,
            joint_names=roles.joints,
            **limits,
            home=self.home,
            links=self._links(data, frames, hand),
            gripper=self._gripper(data, frames[-1], hand),
            geoms=(),
            flange_pos=tool.xyz,
            ee_pos=(0.0, 0.0, 0.0),
            ee_quat=tool.quat,
            workspace_low=low,
            workspace_high=high,
            base_pos=frames[0].xyz,
            base_quat=frames[0].quat,
            sources=(("links", "the robot file"),),
        ), (*notes, *told)

    def _joint_ids(self) -> list[int]:
        return [int(self.model.joint(name).id) for name in self.roles.joints]

    def _posed(self, q: Sequence[float] | Array) -> mujoco.MjData:
        data = mujoco.MjData(self.model)
        data.qpos[[self.model.jnt_qposadr[i] for i in self._joint_ids()]] = q
        mujoco.mj_kinematics(self.model, data)
        mujoco.mj_comPos(self.model, data)
        return data

    def _frames(self, data: mujoco.MjData) -> list[Frame]:
        """Base, then one frame per joint with z along its axis, at joint positions zero."""
        joints = self._joint_ids()
        base = int(self.model.body_parentid[self.model.jnt_bodyid[joints[0]]])
        frames = [Frame(data.xmat[base].reshape(3, 3).copy(), data.xpos[base].copy())]
        for joint in joints:
            body = self.model.jnt_bodyid[joint]
            turned = _z_along(data.xmat[body].reshape(3, 3), data.xaxis[joint])
            frames.append(Frame(turned, data.xanchor[joint].copy()))
        return frames

    def _hand(self) -> int:
        """The body that the fingers hang on, or the one that carries the tool centre."""
        gripper = self.roles.gripper
        if gripper is not None and gripper.fingers:
            finger = self.model.jnt_bodyid[self.model.joint(gripper.fingers[0]).id]
            return int(self.model.body_parentid[finger])
        return int(self.model.site_bodyid[self.model.site(self.tool).id])

    def _links(
        self, data: mujoco.MjData, frames: Sequence[Frame], hand: int
    ) -> tuple[LinkSpec, ...]:
        model, links = self.model, []
        bodies = [int(model.jnt_bodyid[joint]) for joint in self._joint_ids()]
        roots = [int(model.body_parentid[bodies[0]]), *bodies]
        apart = {hand} - set(bodies) if self._parallel() else set()
        parent = frames[0]
        for i, (root, frame) in enumerate(zip(roots, frames, strict=True)):
            group = _welded(model, root, without=apart)
            mass, com, inertia = _lumped(model, data, group, frame)
            placed = frame.within(parent)
            name = model.body(root).name or f"link{i}"
            links.append(
                LinkSpec(
                    name=name,
                    pos=placed.xyz,
                    quat=placed.quat,
                    mass=mass,
                    com=com,
                    inertia=inertia,
                )
            )
            parent = frame
        return tuple(links)

    def _parallel(self) -> GripperRole | None:
        """The gripper where it is two slides."""
        gripper, slide = self.roles.gripper, mujoco.mjtJoint.mjJNT_SLIDE
        if gripper is None or len(gripper.fingers) != 2:
            return None
        kinds = [self.model.joint(name).type[0] for name in gripper.fingers]
        return gripper if all(kind == slide for kind in kinds) else None

    def _gripper(self, data: mujoco.MjData, flange: Frame, hand: int) -> GripperSpec | None:
        gripper, model = self._parallel(), self.model
        if gripper is None:
            return None
        joint = int(model.joint(gripper.fingers[0]).id)
        body = int(model.jnt_bodyid[joint])
        actuator = self._gripper_actuator(gripper)
        kp, kd, force = _gains(model, actuator)
        pads = [int(model.geom(name).id) for name in gripper.pads]
        palm = Frame(data.xmat[hand].reshape(3, 3), data.xpos[hand])
        finger = Frame(data.xmat[body].reshape(3, 3), data.xpos[body])
        low, high = model.jnt_range[joint].tolist()
        limit = model.jnt_actfrcrange[joint, 1] if model.jnt_actfrclimited[joint] else force
        return GripperSpec(
            hand=self._part(data, hand, palm, flange),
            finger=self._part(data, body, finger, palm),
            finger_range=(low, high),
            kp=kp or 1000.0,
            kd=kd or 30.0,
            force_max=float(limit),
            armature=float(model.dof_armature[model.jnt_dofadr[joint]]),
            pad_friction=_vec3(model.geom_friction[pads[0]] if pads else (1.0, 0.005, 0.0001)),
            pad_solref=(0.02, 1.0),
            pad_solimp=(0.9, 0.95, 0.001),
        )

    def _gripper_actuator(self, gripper: GripperRole) -> int:
        name = gripper.actuator or gripper.fingers[0]
        return int(self.model.actuator(name).id)

    def _part(self, data: mujoco.MjData, body: int, frame: Frame, parent: Frame) -> LinkSpec:
        mass, com, inertia = _lumped(self.model, data, _welded(self.model, body), frame)
        placed = frame.within(parent)
        return LinkSpec(
            name=self.model.body(body).name,
            pos=placed.xyz,
            quat=placed.quat,
            mass=mass,
            com=com,
            inertia=inertia,
        )

    def _limits(self) -> tuple[dict[str, Any], tuple[str, ...]]:
        model, given, count = self.model, self.roles.limits, len(self.roles.joints)
        joints = self._joint_ids()
        dofs = [int(model.jnt_dofadr[joint]) for joint in joints]
        gains = [_gains(model, actuator) for actuator in self.actuators]
        found = [_torque(model, j, force) for j, (_, _, force) in zip(joints, gains, strict=True)]
        chosen = {
            "dq_max": (given.dq_max, (DQ_MAX,) * count, f"{DQ_MAX:g} rad/s"),
            "ddq_max": (given.ddq_max, (DDQ_MAX,) * count, f"{DDQ_MAX:g} rad/s^2"),
            "jerk_max": (given.jerk_max, (JERK_MAX,) * count, f"{JERK_MAX:g} rad/s^3"),
        }
        notes = tuple(
            f"limits.{field} is not given: {text} for every joint."
            for field, (value, _, text) in chosen.items()
            if value is None
        )
        if given.tau_max is None and None in found:
            notes += (f"limits.tau_max: unlimited in the file, taken as {TAU_MAX:g} N m.",)
        tau = given.tau_max or tuple(TAU_MAX if value is None else value for value in found)
        return {
            **{field: value or default for field, (value, default, _) in chosen.items()},
            "tau_max": tau,
            "q_min": tuple(float(model.jnt_range[joint, 0]) for joint in joints),
            "q_max": tuple(float(model.jnt_range[joint, 1]) for joint in joints),
            # A torque drive has no gains; the spec wants some, which nothing then uses.
            "kp": tuple(kp or 1.0 for kp, _, _ in gains),
            "kd": tuple(kd or 1.0 for _, kd, _ in gains),
            "armature": tuple(float(model.dof_armature[dof]) for dof in dofs),
            "damping": tuple(float(model.dof_damping[dof]) for dof in dofs),
        }, notes

    def _workspace(self, base: Frame) -> tuple[Vec3, Vec3, tuple[str, ...]]:
        if self.roles.workspace is not None:
            return *self.roles.workspace, ()
        data = self._posed(self.home)
        tool = data.site_xpos[self.model.site(self.tool).id]
        at = base.mat.T @ (tool - base.pos)
        note = f"workspace is not given: {100 * _REACH:g} cm around the tool centre at home."
        return _vec3(at - _REACH), _vec3(at + _REACH), (note,)


def _z_along(mat: Array, axis: Array) -> Array:
    """The axes `mat` turned as little as brings their z to `axis`; kept where it is there."""
    z = mat[:, 2]
    if np.allclose(z, axis, atol=1e-9):
        return mat.copy()
    turn, other = np.cross(z, axis), float(z @ axis)
    if np.linalg.norm(turn) < 1e-9:
        return mat @ np.diag([1.0, -1.0, -1.0])
    cross = np.array([[0, -turn[2], turn[1]], [turn[2], 0, -turn[0]], [-turn[1], turn[0], 0]])
    return (np.eye(3) + cross + cross @ cross / (1.0 + other)) @ mat


def _welded(model: mujoco.MjModel, root: int, *, without: Iterable[int] = ()) -> list[int]:
    """The body and those below it that no joint moves against it."""
    if root == 0:
        return []
    group, left_out = [root], set(without)
    for body in range(root + 1, model.nbody):
        inside = int(model.body_parentid[body]) in group and not model.body_jntnum[body]
        if inside and body not in left_out:
            group.append(body)
    return group


def _lumped(
    model: mujoco.MjModel, data: mujoco.MjData, bodies: Sequence[int], frame: Frame
) -> tuple[float, Vec3, Inertia]:
    """Mass [kg], centre [m] and inertia [kg m^2] of welded bodies, in a frame."""
    mass = float(sum(model.body_mass[body] for body in bodies))
    if mass <= 0.0:
        return 0.0, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    com = sum((model.body_mass[b] * data.xipos[b] for b in bodies), np.zeros(3)) / mass
    total = np.zeros((3, 3))
    for body in bodies:
        axes, away = data.ximat[body].reshape(3, 3), data.xipos[body] - com
        total += axes @ np.diag(model.body_inertia[body]) @ axes.T
        total += model.body_mass[body] * (away @ away * np.eye(3) - np.outer(away, away))
    total = frame.mat.T @ total @ frame.mat
    xx, yy, zz, xy, xz, yz = (
        float(total[i, j]) for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
    )
    return mass, _vec3(frame.mat.T @ (com - frame.pos)), (xx, yy, zz, xy, xz, yz)


def _gains(model: mujoco.MjModel, actuator: int) -> tuple[float, float, float]:
    """Stiffness and damping of a position drive (0, 0 of a motor), and its largest force."""
    gear = float(model.actuator_gear[actuator, 0])
    kp, kd = (-gear * gear * float(model.actuator_biasprm[actuator, i]) for i in (1, 2))
    force = np.inf
    if model.actuator_forcelimited[actuator]:
        force = float(np.abs(model.actuator_forcerange[actuator]).max())
    elif kp == 0.0 and model.actuator_ctrllimited[actuator]:
        gain = abs(float(model.actuator_gainprm[actuator, 0]))
        force = gain * float(np.abs(model.actuator_ctrlrange[actuator]).max())
    return kp, kd, force * abs(gear)


def _torque(model: mujoco.MjModel, joint: int, force: float) -> float | None:
    """The strongest torque at a joint [N m]; None where the file does not limit it."""
    if model.jnt_actfrclimited[joint]:
        force = min(force, float(np.abs(model.jnt_actfrcrange[joint]).max()))
    return force if np.isfinite(force) else None


def _vec3(values: Sequence[float] | Array) -> Vec3:
    x, y, z = (float(v) for v in values)
    return x, y, z
