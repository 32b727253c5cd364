"""A robot file that is not ours, as MJCF and as URDF: six hinges, two slides, names of its own.

Written for these tests in the manner of public robot models: default classes, axes along y, an
elliptic cone, a 2 ms step, a cube and a camera of its own.
"""

from scenes.imported import ImportedScene
from scenes.objects import cube
from scenes.roles import ArmRoles, GripperRole, JointLimits, PositionDrive, ToolFrame
from scenes.specs import TableSpec

JOINTS = ("pan", "lift", "elbow", "wrist_a", "wrist_b", "wrist_c")
HOME = (0.0, 0.3, 1.5, 1.3415926, 0.0, 0.0)

_ARM = """
<body name="pedestal" pos="0 0 0.05">
  <geom class="shell" type="cylinder" size="0.06 0.05"/>
  <body name="shoulder" pos="0 0 0.15">
    <inertial mass="2" pos="0 0 0.02" diaginertia="0.01 0.01 0.008"/>
    <joint name="pan" class="big" axis="0 0 1"/>
    <body name="upper" pos="0 0 0.1">
      <inertial mass="2" pos="0 0.02 0.15" fullinertia="0.02 0.02 0.004 0 0 0.001"/>
      <joint name="lift" class="big"/>
      <geom class="shell" fromto="0 0 0 0 0 0.3" size="0.04"/>
      <body name="fore" pos="0 0 0.3">
        <inertial mass="1.2" pos="0 0 0.12" diaginertia="0.01 0.01 0.002"/>
        <joint name="elbow" class="big"/>
        <geom class="shell" fromto="0 0 0 0 0 0.25" size="0.035"/>
        <body name="w1" pos="0 0 0.28">
          <inertial mass="0.4" pos="0 0 0" diaginertia="0.001 0.001 0.001"/>
          <joint name="wrist_a" class="small"/>
          <body name="w2" pos="0 0 0.05">
            <inertial mass="0.3" pos="0 0 0" diaginertia="0.001 0.001 0.001"/>
            <joint name="wrist_b" class="small" axis="1 0 0"/>
            <body name="w3" pos="0 0 0.05">
              <inertial mass="0.2" pos="0 0 0.01" diaginertia="0.0005 0.0005 0.0005"/>
              <joint name="wrist_c" class="small" axis="0 0 1"/>
              <body name="palm" pos="0 0 0.02" quat="0.70710678 0 0 0.70710678">
                <inertial mass="0.3" pos="0 0 0.02" diaginertia="0.0005 0.0005 0.0005"/>
                <site name="pinch" pos="0 0 0.1" quat="0.70710678 0 0 0.70710678"/>
                <body name="thumb" pos="0 0 0.1">
                  <inertial mass="0.05" pos="0 0 0" diaginertia="1e-5 1e-5 1e-5"/>
                  <joint name="thumb_slide" class="jaw" axis="1 0 0"/>
                  <geom name="thumb_tip" class="tip" pos="0.006 0 0"/>
                </body>
                <body name="index" pos="0 0 0.1">
                  <inertial mass="0.05" pos="0 0 0" diaginertia="1e-5 1e-5 1e-5"/>
                  <joint name="index_slide" class="jaw" axis="-1 0 0"/>
                  <geom name="index_tip" class="tip" pos="-0.006 0 0"/>
                </body>
              </body>
            </body>
          </body>
        </body>
      </body>
    </body>
  </body>
</body>
"""

_DRIVES = {
    "position": """
  <position name="m{i}" joint="{joint}" kp="{kp}" kv="{kv}" inheritrange="1"/>""",
    "torque": """
  <motor name="m{i}" joint="{joint}" ctrlrange="-{kv} {kv}"/>""",
}


def mjcf(actuation: str = "position") -> str:
    """The arm with a cube on a table, as MJCF."""
    gains = [(2000, 120)] * 3 + [(300, 15)] * 3
    drives = "".join(
        _DRIVES[actuation].format(i=i, joint=joint, kp=kp, kv=kv)
        for i, (joint, (kp, kv)) in enumerate(zip(JOINTS, gains, strict=True))
    )
    return f"""<mujoco model="six">
<compiler angle="radian" autolimits="true"/>
<option timestep="0.002" cone="elliptic" noslip_iterations="3" integrator="Euler"/>
<default>
  <default class="big">
    <joint axis="0 1 0" range="-2.6 2.6" armature="0.05" damping="0.5" actuatorfrcrange="-150 150"/>
  </default>
  <default class="small">
    <joint axis="0 1 0" range="-2.6 2.6" armature="0.01" damping="0.1" actuatorfrcrange="-28 28"/>
  </default>
  <default class="jaw"><joint type="slide" range="0 0.04" armature="0.1" damping="1"/></default>
  <default class="shell"><geom type="capsule" contype="0" conaffinity="0"/></default>
  <default class="tip">
    <geom type="box" size="0.006 0.01 0.012" friction="1.2 0.01 0.001" priority="1"/>
  </default>
</default>
<worldbody>
  <geom name="bench" type="plane" size="1 1 0.1"/>
  <camera name="overview" pos="1 0 0.8" xyaxes="0 1 0 -0.5 0 1"/>
  {_ARM}
  <body name="brick" pos="0.35 0 0.02">
    <freejoint/>
    <geom type="box" size="0.02 0.02 0.02" mass="0.1"/>
  </body>
</worldbody>
<equality><joint joint1="index_slide" joint2="thumb_slide" solref="0.01 1"/></equality>
<actuator>{drives}
  <position name="squeeze" joint="thumb_slide" kp="1000" kv="30" ctrlrange="0 0.04"/>
</actuator>
<keyframe>
  <key name="elsewhere" qpos="{" ".join(["0.1"] * 6)} 0 0 0.35 0 0.02 1 0 0 0"/>
  <key name="home" qpos="{" ".join(map(str, HOME))} 0.04 0.04 0.35 0 0.02 1 0 0 0"/>
</keyframe>
</mujoco>"""


def six(actuation: str = "position", **changes: object) -> ImportedScene:
    """The MJCF with its roles named."""
    roles = ArmRoles(
        joints=JOINTS,
        tool="pinch",
        gripper=GripperRole(
            fingers=("thumb_slide", "index_slide"),
            actuator="squeeze",
            pads=("thumb_tip", "index_tip"),
        ),
        workspace=((0.2, -0.2, -0.05), (0.5, 0.2, 0.35)),  # the base stands 5 cm high
        limits=JointLimits(dq_max=(2.0,) * 6),
    )
    given: dict = {
        "text": mjcf(actuation),
        "arms": (roles,),
        "objects": {"cube": "brick"},
        "cameras": {"front": "overview"},
    }
    return ImportedScene(**(given | changes))


_LINKS = (
    # link, mass, centre of mass z, inertia
    ("pedestal", 1.0, 0.0, 0.01),
    ("shoulder", 2.0, 0.02, 0.01),
    ("upper", 2.0, 0.15, 0.02),
    ("fore", 1.2, 0.12, 0.01),
    ("w1", 0.4, 0.0, 0.001),
    ("w2", 0.3, 0.0, 0.001),
    ("w3", 0.2, 0.01, 0.0005),
    ("palm", 0.3, 0.02, 0.0005),
    ("thumb", 0.05, 0.0, 0.0001),
    ("index", 0.05, 0.0, 0.0001),
)
_JOINTS = (
    # name, type, parent, child, z of the origin, axis, low, high
    ("pan", "revolute", "pedestal", "shoulder", 0.2, "0 0 1", -2.6, 2.6),
    ("lift", "revolute", "shoulder", "upper", 0.1, "0 1 0", -2.6, 2.6),
    ("elbow", "revolute", "upper", "fore", 0.3, "0 1 0", -2.6, 2.6),
    ("wrist_a", "revolute", "fore", "w1", 0.28, "0 1 0", -2.6, 2.6),
    ("wrist_b", "revolute", "w1", "w2", 0.05, "1 0 0", -2.6, 2.6),
    ("wrist_c", "revolute", "w2", "w3", 0.05, "0 0 1", -2.6, 2.6),
    ("palm_weld", "fixed", "w3", "palm", 0.02, "0 0 1", 0.0, 0.0),
    ("thumb_slide", "prismatic", "palm", "thumb", 0.1, "0 1 0", 0.0, 0.04),
    ("index_slide", "prismatic", "palm", "index", 0.1, "0 -1 0", 0.0, 0.04),
)
_TIP = """<collision><origin xyz="0 {y} 0"/><geometry><box size="0.02 0.012 0.024"/></geometry>
</collision>"""


def urdf() -> str:
    """The arm alone, as URDF."""
    tips = {"thumb": 0.006, "index": -0.006}
    links = "".join(
        f"""<link name="{name}"><inertial><origin xyz="0 0 {z}"/><mass value="{mass}"/>
<inertia ixx="{i}" iyy="{i}" izz="{i}" ixy="0" ixz="0" iyz="0"/></inertial>
{_TIP.format(y=tips[name]) if name in tips else ""}</link>"""
        for name, mass, z, i in _LINKS
    )
    joints = "".join(
        f"""<joint name="{name}" type="{kind}"><parent link="{parent}"/><child link="{child}"/>
<origin xyz="0 0 {z}"/><axis xyz="{axis}"/>
<limit lower="{low}" upper="{high}" effort="60" velocity="2"/></joint>"""
        for name, kind, parent, child, z, axis, low, high in _JOINTS
    )
    return f'<robot name="six_urdf">{links}{joints}</robot>'


def six_urdf(**changes: object) -> ImportedScene:
    """The URDF with its roles named, and the cube that it lacks."""
    roles = ArmRoles(
        joints=JOINTS,
        tool=ToolFrame(body="palm", pos=(0.0, 0.0, 0.1), quat=(0.0, 0.0, 0.0, 1.0)),
        drive=PositionDrive(kp=(2000.0,) * 3 + (300.0,) * 3, kd=(120.0,) * 3 + (15.0,) * 3),
        gripper=GripperRole(
            fingers=("thumb_slide", "index_slide"),
            drive=PositionDrive(kp=(1000.0,), kd=(30.0,)),
        ),
        home=HOME,
        workspace=((0.2, -0.2, 0.0), (0.5, 0.2, 0.4)),
    )
    given: dict = {"arms": (roles,), "add": (cube(xy=(0.35, 0.0)),), "table": TableSpec()}
    return ImportedScene(text=urdf(), **(given | changes))
