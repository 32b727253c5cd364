"""SceneSpec -> mujoco.MjSpec: bodies, drives, contacts and looks, from primitives only.

One model serves C MuJoCo, MJX-JAX and MJX-Warp, so it keeps to what all three do alike:
primitive geoms, pyramidal cone, Newton, implicitfast, no noslip. Torque limits are set at the
joints (actuatorfrcrange), not at the actuators (forcerange): C MuJoCo and Warp leave a clamped
actuator out of the implicit velocity derivative and MJX-JAX does not, so a saturated drive would
move differently; the joint limit is treated alike by all.
"""

import mujoco

from scenes.contract.specs import CameraSpec
from scenes.mjcf_robot import GEOM_TYPES, MASKS, VISUAL_GROUP, add_robot, find_body
from scenes.specs import ObjectSpec, SceneSpec

HOME_KEY = "home"


def to_mjspec(spec: SceneSpec) -> mujoco.MjSpec:
    """Write a scene. Raises KeyError where a camera or geom names a body that is not there."""
    builder = mujoco.MjSpec()
    builder.modelname = f"{spec.robot.name}_{spec.name}"
    builder.compiler.degree = False
    _set_options(builder, spec)
    _set_visuals(builder, spec)
    _add_table(builder, spec)
    add_robot(builder, spec)
    for entry in spec.objects:
        _add_object(builder, entry)
    for camera in spec.cameras:
        _add_camera(builder, camera)
    _add_home(builder, spec)
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


def _add_table(builder: mujoco.MjSpec, spec: SceneSpec) -> None:
    table = spec.table
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


def _add_object(builder: mujoco.MjSpec, entry: ObjectSpec) -> None:
    body = builder.worldbody.add_body(name=entry.name, pos=entry.pos, quat=entry.quat)
    body.add_freejoint(name=f"{entry.name}_free")
    contype, conaffinity = MASKS["object"]
    body.add_geom(
        name=entry.name,
        type=GEOM_TYPES[entry.shape],
        size=entry.half_size,
        mass=entry.mass,
        friction=entry.friction,
        contype=contype,
        conaffinity=conaffinity,
        rgba=entry.rgba,
    )


def _add_camera(builder: mujoco.MjSpec, camera: CameraSpec) -> None:
    body = builder.worldbody if camera.body is None else find_body(builder, camera.body)
    body.add_camera(
        name=camera.name,
        pos=camera.pos,
        quat=camera.quat,
        fovy=camera.fovy,
        resolution=[camera.width, camera.height],
    )


def _add_home(builder: mujoco.MjSpec, spec: SceneSpec) -> None:
    opened = spec.robot.gripper_range[1]
    qpos = [*spec.home_q, opened, opened]
    for entry in spec.objects:
        qpos += [*entry.pos, *entry.quat]
    arm_ctrl = spec.home_q if spec.actuation == "position" else (0.0,) * spec.robot.num_joints
    builder.add_key(name=HOME_KEY, qpos=qpos, ctrl=[*arm_ctrl, opened])
