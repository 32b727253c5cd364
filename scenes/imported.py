"""A scene from a user's own MJCF or URDF file, with the interface of ours.

The owner names who is who (`scenes.roles`); what is missing or misnamed is told with the names that
the file has. Options that not every physics here shares are set to the project's, with a note.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mujoco
import numpy as np

from scenes.build import ObjectIndex, Scene, index_sensors
from scenes.contract.errors import InputError
from scenes.contract.specs import CameraSpec
from scenes.derived_robot import ArmReader
from scenes.import_checks import check_chain, check_drives, require_names
from scenes.import_index import (
    arm_actuators,
    described_camera,
    described_object,
    gripper_controls,
    index_arm,
    index_object,
)
from scenes.mjcf import HOME_KEY, add_camera, add_table
from scenes.mjcf_objects import add_object
from scenes.mjcf_sensors import add_touch
from scenes.roles import ArmRoles, GripperRole, Keepable, ToolFrame
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
        cameras: cameras of the file by the name that observations use, to which they are renamed.
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
        raise InputError("ImportedScene: give either path or text.")
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
        for name, own in self.source.cameras.items():
            self.builder.camera(own).name = name  # renderers look cameras up in the model
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
        if len({reader.driven for reader in readers}) > 1:
            raise InputError("All arms of a scene must take positions, or all torques.")
        model = self.builder.compile()
        arms = tuple(self._mounted(reader) for reader in readers)
        return Scene(
            spec=self._spec(model, arms, driven=readers[0].driven),
            model=model,
            arms={r.roles.role: index_arm(model, r) for r in readers},
            objects=self._objects(model),
            cameras={name: int(model.camera(name).id) for name in self._cameras()},
            sensors=index_sensors(model),
            notes=tuple(self.notes),
        )

    # Names and shapes of chains that are refused.

    def _check_names(self, roles: ArmRoles) -> None:
        builder, whose = self.builder, f"arm '{roles.role}'" if roles.role else "the arm"
        joints, drives = ([x.name for x in xs] for xs in (builder.joints, builder.actuators))
        require_names("joint", roles.joints, joints, f"{whose}: joints")
        require_names("actuator", roles.actuators, drives, f"{whose}: actuators")
        if isinstance(roles.tool, ToolFrame):
            bodies = [b.name for b in builder.bodies]
            require_names("body", [roles.tool.body], bodies, f"{whose}: tool.body")
        else:
            hint = " Where the file has no site, give a ToolFrame(body=..., pos=..., quat=...)."
            sites = [s.name for s in builder.sites]
            require_names("site", [roles.tool], sites, f"{whose}: tool", hint=hint)
        gripper = roles.gripper
        if gripper is not None:
            geoms = [g.name for g in builder.geoms]
            require_names("joint", gripper.fingers, joints, f"{whose}: gripper.fingers")
            require_names("geom", gripper.pads, geoms, f"{whose}: gripper.pads")
            if gripper.actuator is not None:
                require_names("actuator", [gripper.actuator], drives, f"{whose}: gripper.actuator")

    def _check_owned(self, kind: str, names: Mapping[str, str], there: Sequence[str]) -> None:
        for role, own in names.items():
            require_names(kind, [own], there, f"'{role}'")

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
            raise InputError(
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
            raise InputError(
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
        actuators = arm_actuators(model, roles)
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
                raise InputError(f"The motor of '{joint}' has no ctrlrange; give it one [N m].")
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
        actuator, opened, _ = gripper_controls(model, gripper)
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
        own = (described_object(model, name, body) for name, body in self.source.objects.items())
        found = (described_camera(model, name) for name in self._cameras())
        return SceneSpec(
            name=self.source.name or self.builder.modelname,
            arms=arms,
            objects=(*own, *self.source.add),
            cameras=tuple(found),
            touch=self.source.touch,
            sim_dt=float(model.opt.timestep),
            actuation=actuation,
        )

    def _cameras(self) -> list[str]:
        return [*self.source.cameras, *(camera.name for camera in self.source.add_cameras)]

    def _objects(self, model: mujoco.MjModel) -> dict[str, ObjectIndex]:
        own = {**self.source.objects, **{entry.name: entry.name for entry in self.source.add}}
        return {name: index_object(model, body) for name, body in own.items()}


def _start_pose(model: mujoco.MjModel) -> np.ndarray:
    """Keyframe "home", the first one, or the reference pose."""
    names = [model.key(i).name for i in range(model.nkey)]
    if not names:
        return model.qpos0.copy()
    return model.key_qpos[names.index(HOME_KEY) if HOME_KEY in names else 0].copy()
