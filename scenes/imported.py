"""A scene from a user's own MJCF or URDF file, with the interface of ours.

The owner names who is who (`scenes.roles`); what is missing or misnamed is told with the names that
the file has. Options that not every physics here shares are set to the project's, with a note.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mujoco
import numpy as np

from scenes.build import (
    ArmIndex,
    ObjectIndex,
    Scene,
    as_ids,
    index_body,
    index_joints,
    index_sensors,
)
from scenes.contract.names import unknown_name
from scenes.contract.specs import CameraSpec
from scenes.derived_robot import ArmReader
from scenes.mjcf import HOME_KEY, add_camera, add_table
from scenes.mjcf_objects import add_object
from scenes.mjcf_sensors import add_touch
from scenes.roles import ArmRoles, GripperRole, Keepable, ToolFrame
from scenes.shapes import Box, FixedMount, FreeMount
from scenes.specs import Actuation, MountedArm, ObjectSpec, SceneSpec, TableSpec, TouchSpec

SIM_DT = 0.005  # [s] the project's physics step
SOLVER_ITERATIONS = 8  # as SceneSpec's


@dataclass(frozen=True, kw_only=True)
class ImportedScene:
    """A scene read from a file; `scenes.build.build_scene` compiles it as it does a SceneSpec.

    Attributes:
        path: an .xml (MJCF) or .urdf file; None where `text` is given.
        text: the MJCF or URDF itself.
        arms: who is who.
        objects: bodies of the file that tasks handle, by the name that the task uses.
        table: ours, with its top at z = 0, for a file that has none.
        add: objects that the file lacks.
        cameras: cameras of the file to keep, by the name that observations use.
        add_cameras: cameras that the file lacks.
        touch: contact readings.
        sim_dt: physics step [s]; the file's own where "sim_dt" is kept.
        keep: options of the file that are not set to the project's.
        name: of the scene; None takes the file's model name.
    """

    path: str | Path | None = None
    text: str | None = None
    arms: tuple[ArmRoles, ...]
    objects: Mapping[str, str] = field(default_factory=dict)
    table: TableSpec | None = None
    add: tuple[ObjectSpec, ...] = ()
    cameras: Mapping[str, str] = field(default_factory=dict)
    add_cameras: tuple[CameraSpec, ...] = ()
    touch: tuple[TouchSpec, ...] = ()
    sim_dt: float = SIM_DT
    keep: tuple[Keepable, ...] = ()
    name: str | None = None

    def build(self) -> Scene:
        """Read, complete and compile the file.

        Raises FileNotFoundError for the file, KeyError for a name that it does not have, and
        ValueError for an arm that our controllers cannot drive.
        """
        return _Importer(self, read_file(self)).scene()


def read_file(source: ImportedScene) -> mujoco.MjSpec:
    """Parse the file; its bodies keep their names (a URDF's welded links are not merged)."""
    if (source.path is None) == (source.text is None):
        raise ValueError("ImportedScene: give either path or text.")
    if source.text is not None:
        builder = mujoco.MjSpec.from_string(source.text)
    else:
        path = Path(str(source.path)).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"ImportedScene: {path} is not there.")
        builder = mujoco.MjSpec.from_file(str(path))
    builder.compiler.fusestatic = False
    return builder


class _Importer:
    """Completes one file step by step."""

    def __init__(self, source: ImportedScene, builder: mujoco.MjSpec) -> None:
        self.source, self.builder = source, builder
        self.notes: list[str] = []

    def scene(self) -> Scene:
        """The scene; see `ImportedScene.build`."""
        for roles in self.source.arms:
            self._check_names(roles)
        self._check_owned("body", self.source.objects, [b.name for b in self.builder.bodies])
        self._check_owned("camera", self.source.cameras, [c.name for c in self.builder.cameras])
        # Bodies are only added behind the file's own, so this stays the first part of qpos.
        start = _start_pose(self.builder.compile())
        for key in list(self.builder.keys):
            self.builder.delete(key)
        tools = [self._add_tool(roles) for roles in self.source.arms]
        for roles in self.source.arms:
            self._add_drives(roles)
            if "gravcomp" not in self.source.keep:
                self._carry(roles)
        if self.source.table is not None:
            add_table(self.builder, self.source.table)
        for entry in self.source.add:
            add_object(self.builder, entry)
        for camera in self.source.add_cameras:
            add_camera(self.builder, camera)
        self._set_options()
        add_touch(self.builder, self.source.touch)
        return self._compiled(tools, start)

    def _compiled(self, tools: Sequence[str], own_start: np.ndarray) -> Scene:
        first = self.builder.compile()
        start = first.qpos0.copy()
        start[: len(own_start)] = own_start
        readers = [
            self._reader(first, roles, tool, start)
            for roles, tool in zip(self.source.arms, tools, strict=True)
        ]
        self._set_home(first, start, readers)
        model = self.builder.compile()
        arms = tuple(self._mounted(reader) for reader in readers)
        return Scene(
            spec=self._spec(model, arms, driven=readers[0].driven),
            model=model,
            arms={r.roles.role: _index_arm(model, r) for r in readers},
            objects=self._objects(model),
            cameras={name: int(model.camera(own).id) for name, own in self._cameras().items()},
            sensors=index_sensors(model),
            notes=tuple(self.notes),
        )

    # Names and shapes of chains that are refused.

    def _check_names(self, roles: ArmRoles) -> None:
        builder, whose = self.builder, f"arm '{roles.role}'" if roles.role else "the arm"
        joints, drives = ([x.name for x in xs] for xs in (builder.joints, builder.actuators))
        _require("joint", roles.joints, joints, f"{whose}: joints")
        _require("actuator", roles.actuators, drives, f"{whose}: actuators")
        if isinstance(roles.tool, ToolFrame):
            bodies = [b.name for b in builder.bodies]
            _require("body", [roles.tool.body], bodies, f"{whose}: tool.body")
        else:
            hint = " Where the file has no site, give a ToolFrame(body=..., pos=..., quat=...)."
            sites = [s.name for s in builder.sites]
            _require("site", [roles.tool], sites, f"{whose}: tool", hint=hint)
        gripper = roles.gripper
        if gripper is not None:
            geoms = [g.name for g in builder.geoms]
            _require("joint", gripper.fingers, joints, f"{whose}: gripper.fingers")
            _require("geom", gripper.pads, geoms, f"{whose}: gripper.pads")
            if gripper.actuator is not None:
                _require("actuator", [gripper.actuator], drives, f"{whose}: gripper.actuator")

    def _check_owned(self, kind: str, names: Mapping[str, str], there: Sequence[str]) -> None:
        for role, own in names.items():
            _require(kind, [own], there, f"'{role}'")

    # What the file lacks.

    def _add_tool(self, roles: ArmRoles) -> str:
        tool = roles.tool
        if not isinstance(tool, ToolFrame):
            return tool
        name = f"{roles.role}/ee" if roles.role else "ee"
        body = self.builder.body(tool.body)
        body.add_site(name=name, pos=tool.pos, quat=tool.quat, group=4, size=[0.004] * 3)
        return name

    def _add_drives(self, roles: ArmRoles) -> None:
        targets = {actuator.target for actuator in self.builder.actuators}
        lacking = [] if roles.actuators else [j for j in roles.joints if j not in targets]
        if lacking and roles.drive is None:
            raise ValueError(
                f"The file has no actuator for {', '.join(lacking)}: name those that it has in "
                "actuators, or give drive=PositionDrive(kp=..., kd=...) to add position actuators."
            )
        for joint in lacking:
            i = roles.joints.index(joint)
            assert roles.drive is not None  # asked for above
            self._add_drive(joint, roles.drive.kp[i], roles.drive.kd[i])
        gripper = roles.gripper
        if gripper is not None and gripper.actuator is None:
            self._add_gripper_drive(gripper)

    def _add_gripper_drive(self, gripper: GripperRole) -> None:
        if not gripper.fingers or gripper.drive is None:
            there = ", ".join(a.name for a in self.builder.actuators) or "none"
            raise ValueError(
                f"gripper: name its actuator (the file has: {there}), or give fingers and "
                "drive=PositionDrive(kp=(...,), kd=(...,)) to add one."
            )
        leader, *others = gripper.fingers
        self._add_drive(leader, gripper.drive.kp[0], gripper.drive.kd[0])
        coupled = {name for e in self.builder.equalities for name in (e.name1, e.name2)}
        for finger in set(others) - coupled:
            self._couple(leader, finger)

    def _couple(self, leader: str, finger: str) -> None:
        entry = self.builder.add_equality(
            type=mujoco.mjtEq.mjEQ_JOINT,
            objtype=mujoco.mjtObj.mjOBJ_JOINT,
            name1=finger,
            name2=leader,
        )
        entry.data = [0.0, 1.0] + [0.0] * (len(entry.data) - 2)
        self.notes.append(f"finger '{finger}' follows '{leader}'.")

    def _add_drive(self, joint: str, kp: float, kd: float) -> None:
        limits = self.builder.joint(joint).range
        actuator = self.builder.add_actuator(
            name=joint, target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT, ctrllimited=True
        )
        actuator.set_to_position(kp=kp, kv=kd)
        actuator.ctrlrange = limits
        self.notes.append(f"added a position actuator to '{joint}' (kp {kp:g}, kd {kd:g}).")

    def _carry(self, roles: ArmRoles) -> None:
        """Let the arm carry its own weight, as a real one's controller does."""
        top = self.builder.joint(roles.joints[0]).parent
        bodies = [top, *top.find_all("body")]
        changed = [body for body in bodies if body.gravcomp == 0]
        for body in changed:
            body.gravcomp = 1.0
        if changed:
            self.notes.append("gravity compensation of the arm's bodies set to 1 (keep: gravcomp).")

    def _set_options(self) -> None:
        option = self.builder.option
        wanted = {
            "cone": ("cone", int(mujoco.mjtCone.mjCONE_PYRAMIDAL)),
            "noslip": ("noslip_iterations", 0),
            "integrator": ("integrator", int(mujoco.mjtIntegrator.mjINT_IMPLICITFAST)),
            "solver": ("solver", int(mujoco.mjtSolver.mjSOL_NEWTON)),
            "sim_dt": ("timestep", self.source.sim_dt),
        }
        for name, (attribute, value) in wanted.items():
            old = getattr(option, attribute)
            if old == value or name in self.source.keep:
                continue
            setattr(option, attribute, value)
            self.notes.append(f"option {attribute} set to {value:g}, was {old:g} (keep: {name}).")
        if "solver" not in self.source.keep:
            option.iterations, option.ls_iterations = SOLVER_ITERATIONS, SOLVER_ITERATIONS
        option.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET

    # Home, and what the spec says of it all.

    def _reader(
        self, model: mujoco.MjModel, roles: ArmRoles, tool: str, start: np.ndarray
    ) -> ArmReader:
        check_chain(model, roles)
        actuators = _arm_actuators(model, roles)
        driven = check_drives(model, actuators)
        for joint, actuator in zip(roles.joints, actuators, strict=True):
            self._limit_control(model, joint, actuator, driven=driven)
        ids = [int(model.joint(name).qposadr[0]) for name in roles.joints]
        home = roles.home or tuple(float(q) for q in start[ids])
        return ArmReader(model, roles, tool, actuators, home, driven)

    def _limit_control(
        self, model: mujoco.MjModel, joint: str, actuator: int, *, driven: bool
    ) -> None:
        """Give a control without a range one: controllers clip what they command to it."""
        if model.actuator_ctrllimited[actuator]:
            return
        entry, limits = self.builder.actuators[actuator], model.joint(joint).range.tolist()
        if not driven:
            if not model.actuator_forcelimited[actuator]:
                raise ValueError(f"The motor of '{joint}' has no ctrlrange; give it one [N m].")
            limits = model.actuator_forcerange[actuator].tolist()
        entry.ctrllimited, entry.ctrlrange = True, limits
        self.notes.append(f"control of '{joint}' limited to {limits[0]:g}..{limits[1]:g}.")

    def _set_home(
        self, model: mujoco.MjModel, start: np.ndarray, readers: Sequence[ArmReader]
    ) -> None:
        qpos, ctrl = start.copy(), np.zeros(model.nu)
        for reader in readers:
            ids = [int(model.joint(name).qposadr[0]) for name in reader.roles.joints]
            qpos[ids] = reader.home
            if reader.driven:
                ctrl[list(reader.actuators)] = reader.home
            self._open(model, reader.roles.gripper, qpos, ctrl)
        self.builder.add_key(name=HOME_KEY, qpos=qpos, ctrl=ctrl)

    def _open(
        self, model: mujoco.MjModel, gripper: GripperRole | None, qpos: np.ndarray, ctrl: np.ndarray
    ) -> None:
        if gripper is None:
            return
        actuator, opened, _ = _gripper_controls(model, gripper)
        ctrl[actuator] = opened
        for finger in gripper.fingers:
            joint = model.joint(finger)
            qpos[joint.qposadr[0]] = joint.range[1]

    def _mounted(self, reader: ArmReader) -> MountedArm:
        robot, notes = reader.robot(self.source.name or self.builder.modelname)
        self.notes += notes
        return MountedArm(robot=robot, role=reader.roles.role)

    def _spec(
        self, model: mujoco.MjModel, arms: tuple[MountedArm, ...], *, driven: bool
    ) -> SceneSpec:
        actuation: Actuation = "position" if driven else "torque"
        own = (_described(model, name, body) for name, body in self.source.objects.items())
        found = (_described_camera(model, name, own) for name, own in self._cameras().items())
        return SceneSpec(
            name=self.source.name or self.builder.modelname,
            arms=arms,
            objects=(*own, *self.source.add),
            cameras=tuple(found),
            touch=self.source.touch,
            sim_dt=float(model.opt.timestep),
            actuation=actuation,
        )

    def _cameras(self) -> dict[str, str]:
        return {**self.source.cameras, **{c.name: c.name for c in self.source.add_cameras}}

    def _objects(self, model: mujoco.MjModel) -> dict[str, ObjectIndex]:
        own = {**self.source.objects, **{entry.name: entry.name for entry in self.source.add}}
        return {name: _index_object(model, body) for name, body in own.items()}


def _require(
    kind: str, wanted: Iterable[str], there: Sequence[str], where: str, *, hint: str = ""
) -> None:
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


def _start_pose(model: mujoco.MjModel) -> np.ndarray:
    """Keyframe "home", the first one, or the reference pose."""
    names = [model.key(i).name for i in range(model.nkey)]
    if not names:
        return model.qpos0.copy()
    return model.key_qpos[names.index(HOME_KEY) if HOME_KEY in names else 0].copy()


def _arm_actuators(model: mujoco.MjModel, roles: ArmRoles) -> list[int]:
    if roles.actuators:
        return [int(model.actuator(name).id) for name in roles.actuators]
    joints = [int(model.joint(name).id) for name in roles.joints]
    by_joint = {int(model.actuator_trnid[i, 0]): i for i in reversed(range(model.nu))}
    return [by_joint[joint] for joint in joints]


def _gripper_controls(model: mujoco.MjModel, gripper: GripperRole) -> tuple[int, float, float]:
    """Actuator of the gripper, and its controls where it is open and closed."""
    actuator = int(model.actuator(gripper.actuator or gripper.fingers[0]).id)
    low, high = model.actuator_ctrlrange[actuator].tolist()
    opened = high if gripper.opened is None else gripper.opened
    return actuator, opened, low if gripper.closed is None else gripper.closed


def _index_arm(model: mujoco.MjModel, reader: ArmReader) -> ArmIndex:
    roles, gripper = reader.roles, reader.roles.gripper
    joints = [model.joint(name) for name in roles.joints]
    fingers = () if gripper is None else gripper.fingers
    pads = () if gripper is None else gripper.pads
    qpos_ids, dof_ids = index_joints(model, roles.joints)
    actuator, opened, closed = (
        (None, 0.0, 0.0) if gripper is None else _gripper_controls(model, gripper)
    )
    site = int(model.site(reader.tool).id)
    return ArmIndex(
        joint_ids=as_ids([joint.id for joint in joints]),
        qpos_ids=qpos_ids,
        dof_ids=dof_ids,
        body_ids=as_ids([int(model.jnt_bodyid[joint.id]) for joint in joints]),
        ctrl_ids=as_ids(list(reader.actuators)),
        finger_qpos_ids=index_joints(model, fingers)[0],
        finger_body_ids=as_ids([int(model.jnt_bodyid[model.joint(f).id]) for f in fingers]),
        pad_geom_ids=as_ids([int(model.geom(name).id) for name in pads]),
        gripper_ctrl_id=actuator,
        gripper_opened=opened,
        gripper_closed=closed,
        hand_body_id=int(model.site_bodyid[site]),
        ee_site_id=site,
        base_qpos_ids=as_ids([]),
        base_dof_ids=as_ids([]),
        base_ctrl_ids=as_ids([]),
    )


def _index_object(model: mujoco.MjModel, name: str) -> ObjectIndex:
    body = int(model.body(name).id)
    first, count = int(model.body_geomadr[body]), int(model.body_geomnum[body])
    geoms = [first + i for i in range(count)]
    touching = [g for g in geoms if model.geom_contype[g] or model.geom_conaffinity[g]]
    return index_body(model, body, touching or geoms)


def _described(model: mujoco.MjModel, name: str, body_name: str) -> ObjectSpec:
    """An object of the file as a box around its first solid: what a spec can say of it."""
    index = _index_object(model, body_name)
    half = np.maximum(model.geom_aabb[index.geom_id, 3:], 1e-4)
    x, y, z = half.tolist()
    px, py, pz = model.body_pos[index.body_id].tolist()
    w, qx, qy, qz = model.body_quat[index.body_id].tolist()
    return ObjectSpec(
        name=name,
        shape=Box((x, y, z)),
        mass=max(float(model.body_mass[index.body_id]), 1e-6),
        mount=FreeMount() if len(index.qpos_ids) == 7 else FixedMount(),
        pos=(px, py, pz),
        quat=(w, qx, qy, qz),
    )


def _described_camera(model: mujoco.MjModel, name: str, own: str) -> CameraSpec:
    camera = model.camera(own)
    body = int(camera.bodyid[0])
    x, y, z = camera.pos.tolist()
    w, qx, qy, qz = camera.quat.tolist()
    width, height = (int(n) for n in model.cam_resolution[camera.id])
    return CameraSpec(
        name=name,
        body=model.body(body).name if body else None,
        pos=(x, y, z),
        quat=(w, qx, qy, qz),
        fovy=float(camera.fovy[0]),
        width=max(width, 64),
        height=max(height, 64),
    )
