"""SceneSpec -> mujoco.MjSpec: bodies, drives, contacts and looks, from primitives only.

One model serves C MuJoCo, MJX-JAX and MJX-Warp, so it keeps to what all three do alike:
primitive geoms, pyramidal cone, Newton, implicitfast, no noslip. Torque limits are set at the
joints (actuatorfrcrange), not at the actuators (forcerange): C MuJoCo and Warp leave a clamped
actuator out of the implicit velocity derivative and MJX-JAX does not, so a saturated drive would
move differently; the joint limit is treated alike by all.
"""

from collections.abc import Iterable

import mujoco

from scenes.bases import Floating, Legged
from scenes.contract.specs import CameraSpec
from scenes.mjcf_legs import add_legs
from scenes.mjcf_objects import add_object, object_home
from scenes.mjcf_robot import MASKS, VISUAL_GROUP, add_arm, add_base, find_body
from scenes.mjcf_sensors import add_touch
from scenes.shapes import HeldMount
from scenes.specs import MountedArm, ObjectSpec, SceneSpec, TableSpec

HOME_KEY = "home"
add_base.register(Legged, add_legs)


def to_mjspec(spec: SceneSpec) -> mujoco.MjSpec:
    """Write a scene. Raises KeyError where a camera or geom names a body that is not there."""
    builder = mujoco.MjSpec()
    builder.modelname = "_".join([*(arm.robot.name for arm in spec.arms), spec.name])
    builder.compiler.degree = False
    _set_options(builder, spec)
    _set_visuals(builder, spec)
    add_table(builder, spec.table)
    for arm in spec.arms:
        add_arm(builder, arm, actuation=spec.actuation)
    for entry in spec.objects:
        add_object(builder, entry, spec.arms)
    for camera in spec.cameras:
        add_camera(builder, camera)
    _add_home(builder, spec)
    add_touch(builder, spec.touch)
    return builder


def _set_options(builder: mujoco.MjSpec, spec: SceneSpec) -> None:
    option = builder.option
    option.timestep = spec.sim_dt
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.solver = mujoco.mjtSolver.mjSOL_NEWTON
    option.cone = mujoco.mjtCone.mjCONE_PYRAMIDAL
    option.iterations = spec.solver_iterations
    option.ls_iterations = spec.line_search_iterations
    # A world that blew up must stay visible: C MuJoCo would silently reset it. Warp never does and
    # refuses the flag: give it build.warp_model.
    option.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET


def _set_visuals(builder: mujoco.MjSpec, spec: SceneSpec) -> None:
    visual = builder.visual
    visual.global_.offwidth = max([640, *(camera.width for camera in spec.cameras)])
    visual.global_.offheight = max([480, *(camera.height for camera in spec.cameras)])
    light_scene(builder)


def light_scene(builder: mujoco.MjSpec) -> None:
    """Add the sky and the lights that all our scenes have."""
    visual = builder.visual
    visual.headlight.ambient = [0.35, 0.35, 0.35]
    visual.headlight.diffuse = [0.35, 0.35, 0.35]
    visual.headlight.specular = [0.1, 0.1, 0.1]
    builder.stat.center = [0.35, 0.0, 0.3]
    builder.stat.extent = 1.2
    builder.add_texture(
        name="sky",
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=[0.62, 0.70, 0.78],
        rgb2=[0.20, 0.24, 0.29],
        width=64,
        height=384,
    )
    builder.worldbody.add_light(
        name="key", pos=[0.8, -0.9, 2.2], dir=[-0.25, 0.45, -1.0], diffuse=[0.6, 0.58, 0.55]
    )
    builder.worldbody.add_light(
        name="fill", pos=[0.6, 1.2, 1.8], dir=[-0.1, -0.6, -1.0], diffuse=[0.25, 0.27, 0.3]
    ).castshadow = False


def add_table(builder: mujoco.MjSpec, table: TableSpec) -> None:
    """Add the table and the floor."""
    contype, conaffinity = MASKS["table"]
    builder.worldbody.add_geom(
        name="table",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[*table.half_size, 0.05],
        pos=[*table.center, 0.0],
        contype=contype,
        conaffinity=conaffinity,
        friction=table.friction,
        rgba=table.rgba,
    )
    thickness = 0.02  # [m] drawn only
    builder.worldbody.add_geom(
        name="table_body",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[*table.half_size, thickness],
        pos=[*table.center, -thickness - 0.001],
        contype=0,
        conaffinity=0,
        group=VISUAL_GROUP,
        rgba=[0.55 * c for c in table.rgba[:3]] + [1.0],
    )
    builder.worldbody.add_geom(
        name="floor",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[4.0, 4.0, 0.1],
        pos=[0.0, 0.0, -table.height],
        contype=0,
        conaffinity=0,
        group=VISUAL_GROUP,
        rgba=[0.46, 0.49, 0.52, 1.0],
    )


def add_camera(builder: mujoco.MjSpec, camera: CameraSpec) -> None:
    """Add a camera; raises KeyError where its body is not there."""
    body = builder.worldbody if camera.body is None else find_body(builder, camera.body)
    body.add_camera(
        name=camera.name,
        pos=camera.pos,
        quat=camera.quat,
        fovy=camera.fovy,
        resolution=[camera.width, camera.height],
    )


def _base_home(arm: MountedArm) -> tuple[list[float], list[float]]:
    """What an arm's base adds to the keyframe's qpos and ctrl."""
    base, placed = arm.base, [*arm.base_pos, *arm.base_quat]
    if isinstance(base, Floating):
        return placed, []
    if isinstance(base, Legged):
        return [*placed, *base.home], [*base.home]
    return [0.0] * len(base.joints), [0.0] * len(base.joints)


def _add_home(builder: mujoco.MjSpec, spec: SceneSpec) -> None:
    qpos: list[float] = []
    ctrl: list[float] = []
    for arm in spec.arms:
        home = spec.home_of(arm)
        q, u = _base_home(arm)
        qpos, ctrl = qpos + q, ctrl + u
        qpos += home
        ctrl += home if spec.actuation == "position" else [0.0] * arm.robot.num_joints
        if arm.robot.gripper is not None:
            opened = arm.robot.gripper.finger_range[1]
            qpos += [opened, opened]
            ctrl.append(opened)
        qpos += _home_of(x for x in spec.objects if _holder(x) == arm.role)
    qpos += _home_of(x for x in spec.objects if _holder(x) is None)
    builder.add_key(name=HOME_KEY, qpos=qpos, ctrl=ctrl)


def _home_of(objects: Iterable[ObjectSpec]) -> list[float]:
    return [number for entry in objects for number in object_home(entry)]


def _holder(entry: ObjectSpec) -> str | None:
    """The arm whose joints an object's own follow, by its role."""
    return entry.mount.role if isinstance(entry.mount, HeldMount) else None
