"""SceneSpec -> mujoco.MjSpec: bodies, drives, contacts and looks, from primitives only.

One model serves C MuJoCo, MJX-JAX and MJX-Warp, so it keeps to what all three do alike:
primitive geoms, pyramidal cone, Newton, implicitfast, no noslip. Torque limits are set at the
joints (actuatorfrcrange), not at the actuators (forcerange): C MuJoCo and Warp leave a clamped
actuator out of the implicit velocity derivative and MJX-JAX does not, so a saturated drive would
move differently; the joint limit is treated alike by all.
"""

import mujoco

from scenes.specs import (
    CameraSpec,
    GeomSpec,
    LinkSpec,
    ObjectSpec,
    RobotSpec,
    SceneSpec,
    unknown_name,
)

# Contact bits. A pair touches when either side's contype meets the other's conaffinity.
_TABLE, _OBJECT = 1, 2
_MASKS = {  # role: (contype, conaffinity)
    "visual": (0, 0),
    "arm": (0, _TABLE),
    "hand": (0, _TABLE | _OBJECT),
    "pad": (0, _TABLE | _OBJECT),
    "table": (_TABLE, 0),
    "object": (_OBJECT, _TABLE | _OBJECT),
}
_GEOM_TYPES = {
    "box": mujoco.mjtGeom.mjGEOM_BOX,
    "sphere": mujoco.mjtGeom.mjGEOM_SPHERE,
    "capsule": mujoco.mjtGeom.mjGEOM_CAPSULE,
    "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
}
_VISUAL_GROUP, _COLLISION_GROUP = 2, 3
FINGERS = (("left_finger", (1.0, 0.0, 0.0, 0.0)), ("right_finger", (0.0, 0.0, 0.0, 1.0)))
EE_SITE = "ee"
HOME_KEY = "home"
GRIPPER_ACTUATOR = "gripper"


def to_mjspec(spec: SceneSpec) -> mujoco.MjSpec:
    """Write a scene. Raises KeyError where a camera or geom names a body that is not there."""
    builder = mujoco.MjSpec()
    builder.modelname = f"{spec.robot.name}_{spec.name}"
    builder.compiler.degree = False
    _set_options(builder, spec)
    _set_visuals(builder, spec)
    _add_table(builder, spec)
    _add_robot(builder, spec)
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
    contype, conaffinity = _MASKS["table"]
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
        group=_VISUAL_GROUP,
        rgba=[0.55 * c for c in table.rgba[:3]] + [1.0],
    )
    builder.worldbody.add_geom(
        name="floor",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[4.0, 4.0, 0.1],
        pos=[0.0, 0.0, -table.height],
        contype=0,
        conaffinity=0,
        group=_VISUAL_GROUP,
        rgba=[0.46, 0.49, 0.52, 1.0],
    )


def _add_robot(builder: mujoco.MjSpec, spec: SceneSpec) -> None:
    robot = spec.robot
    parent = builder.worldbody
    for i, link in enumerate(robot.links):
        parent = _add_link(parent, link)
        if i == 0:
            parent.pos, parent.quat = robot.base_pos, robot.base_quat
        else:
            _add_arm_joint(parent, robot, i - 1, driven=spec.actuation == "position")
    _add_hand(builder, parent, robot)
    for i in range(robot.num_joints):
        _add_arm_actuator(builder, spec, i)
    _add_gripper_drive(builder, robot)
    for geom in robot.geoms:
        _add_robot_geom(builder, geom, robot)


def _add_link(parent: mujoco.MjsBody, link: LinkSpec, *, name: str = "") -> mujoco.MjsBody:
    return parent.add_body(
        name=name or link.name,
        pos=link.pos,
        quat=link.quat,
        mass=link.mass,
        ipos=link.com,
        fullinertia=link.inertia,
        explicitinertial=True,
        # The robot's own controller carries its weight, so the simulated drives need not.
        gravcomp=1.0,
    )


def _add_arm_joint(body: mujoco.MjsBody, robot: RobotSpec, i: int, *, driven: bool) -> None:
    body.add_joint(
        name=robot.joint_names[i],
        type=mujoco.mjtJoint.mjJNT_HINGE,
        axis=[0, 0, 1],
        limited=True,
        range=[robot.q_min[i], robot.q_max[i]],
        armature=robot.armature[i],
        damping=robot.damping[i],
        actfrclimited=driven,
        actfrcrange=[-robot.tau_max[i], robot.tau_max[i]],
    )


def _add_arm_actuator(builder: mujoco.MjSpec, spec: SceneSpec, i: int) -> None:
    robot = spec.robot
    actuator = builder.add_actuator(
        name=robot.joint_names[i],
        target=robot.joint_names[i],
        trntype=mujoco.mjtTrn.mjTRN_JOINT,
        ctrllimited=True,
    )
    if spec.actuation == "position":
        actuator.set_to_position(kp=robot.kp[i], kv=robot.kd[i])
        actuator.ctrlrange = [robot.q_min[i], robot.q_max[i]]
    else:
        actuator.set_to_motor()
        actuator.ctrlrange = [-robot.tau_max[i], robot.tau_max[i]]


def _add_hand(builder: mujoco.MjSpec, flange: mujoco.MjsBody, robot: RobotSpec) -> None:
    gripper = robot.gripper
    hand = _add_link(flange, gripper.hand)
    hand.add_site(
        name=EE_SITE, pos=robot.ee_pos, size=[0.004] * 3, rgba=[0.1, 0.8, 0.2, 0.5], group=4
    )
    for name, quat in FINGERS:
        finger = _add_link(hand, gripper.finger, name=name)
        finger.quat = quat
        finger.add_joint(
            name=f"{name}_joint",
            type=mujoco.mjtJoint.mjJNT_SLIDE,
            axis=[0, 1, 0],
            limited=True,
            range=gripper.finger_range,
            armature=gripper.armature,
            actfrclimited=True,
            actfrcrange=[-gripper.force_max, gripper.force_max],
        )


def _add_gripper_drive(builder: mujoco.MjSpec, robot: RobotSpec) -> None:
    gripper = robot.gripper
    left, right = (f"{name}_joint" for name, _ in FINGERS)
    coupling = builder.add_equality(
        name="fingers",
        type=mujoco.mjtEq.mjEQ_JOINT,
        objtype=mujoco.mjtObj.mjOBJ_JOINT,
        name1=left,
        name2=right,
    )
    # Menagerie's stiffness, slowed to two steps of 5 ms, the shortest MuJoCo holds stable.
    coupling.solref = [0.01, 1.0]
    coupling.solimp = [0.95, 0.99, 0.001, 0.5, 2.0]
    coupling.data = [0.0, 1.0] + [0.0] * (len(coupling.data) - 2)
    actuator = builder.add_actuator(
        name=GRIPPER_ACTUATOR,
        target=left,
        trntype=mujoco.mjtTrn.mjTRN_JOINT,
        ctrllimited=True,
        ctrlrange=gripper.finger_range,
    )
    actuator.set_to_position(kp=gripper.kp, kv=gripper.kd)


def _add_robot_geom(builder: mujoco.MjSpec, geom: GeomSpec, robot: RobotSpec) -> None:
    targets = [name for name, _ in FINGERS] if geom.body == "finger" else [geom.body]
    for target in targets:
        body = _find_body(builder, target)
        contype, conaffinity = _MASKS[geom.role]
        added = body.add_geom(
            name=f"{target}_pad" if geom.role == "pad" else "",
            type=_GEOM_TYPES[geom.kind],
            size=[*geom.size, 0.0, 0.0][:3],
            pos=geom.pos,
            contype=contype,
            conaffinity=conaffinity,
            rgba=geom.rgba,
            # The pads are drawn and collide; the other colliders are hidden by default.
            group=_COLLISION_GROUP if geom.role in ("arm", "hand") else _VISUAL_GROUP,
        )
        if geom.start is not None and geom.end is not None:
            added.fromto = [*geom.start, *geom.end]
        if geom.role == "pad":
            added.friction = robot.gripper.pad_friction
            added.solref = robot.gripper.pad_solref
            added.solimp = [*robot.gripper.pad_solimp, 0.5, 2.0]
            added.priority = 1


def _add_object(builder: mujoco.MjSpec, entry: ObjectSpec) -> None:
    body = builder.worldbody.add_body(name=entry.name, pos=entry.pos, quat=entry.quat)
    body.add_freejoint(name=f"{entry.name}_free")
    contype, conaffinity = _MASKS["object"]
    body.add_geom(
        name=entry.name,
        type=_GEOM_TYPES[entry.shape],
        size=entry.half_size,
        mass=entry.mass,
        friction=entry.friction,
        contype=contype,
        conaffinity=conaffinity,
        rgba=entry.rgba,
    )


def _add_camera(builder: mujoco.MjSpec, camera: CameraSpec) -> None:
    body = builder.worldbody if camera.body is None else _find_body(builder, camera.body)
    body.add_camera(
        name=camera.name,
        pos=camera.pos,
        quat=camera.quat,
        fovy=camera.fovy,
        resolution=[camera.width, camera.height],
    )


def _find_body(builder: mujoco.MjSpec, name: str) -> mujoco.MjsBody:
    body = builder.body(name)
    if body is None:
        raise KeyError(unknown_name("body", name, [entry.name for entry in builder.bodies]))
    return body


def _add_home(builder: mujoco.MjSpec, spec: SceneSpec) -> None:
    opened = spec.robot.gripper_range[1]
    qpos = [*spec.home_q, opened, opened]
    for entry in spec.objects:
        qpos += [*entry.pos, *entry.quat]
    arm_ctrl = spec.home_q if spec.actuation == "position" else (0.0,) * spec.robot.num_joints
    builder.add_key(name=HOME_KEY, qpos=qpos, ctrl=[*arm_ctrl, opened])
