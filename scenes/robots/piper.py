"""The AgileX Piper with its own two-finger gripper, for firmware S-V1.6-3 and newer.

Older firmware zeroes joints 2 and 3 two degrees elsewhere, which puts the flange 10 mm off
(reference robot_bridge.md section 6); the driver refuses it. Frames are written as the modified
Denavit-Hartenberg rows of piper_sdk (MIT), so that our forward kinematics and the arm's agree;
they are the link frames of AgileX's URDF up to its rounding, whose masses and inertias we take.
The primitive shapes are ours, drawn around those frames.
"""

import math
from dataclasses import dataclass

from scenes.contract.robot import GeomSpec, GripperSpec, LinkSpec, RobotSpec
from scenes.contract.rotations import UNIT_QUAT, Inertia, Quat, Vec3
from scenes.robots.registry import register_robot
from scenes.robots.shapes import BLACK, GREY, WHITE, disc, tube

_DH = "piper_sdk 0.6.2 C_PiperForwardKinematics(dh_is_offset=1), MIT (robot_bridge.md section 6)"
_URDF = (
    "AgileX piper_ros ac41fcb piper_no_gripper_description.urdf (MIT), as piper-planner 0.1.3 "
    "assets/piper_kinematics.urdf, sha256 555f61b6"
)
_GRIPPER = (
    "AgileX agx_arm_urdf gripper_base and gripper_link1 (masses, inertias, frame at 0.1358 m); "
    "stroke 0-70 mm piper_sdk gripper_range; kp, kd, force_max, armature, pads ours"
)
_SDK_LIMITS = "piper_sdk and URDF agree (robot_bridge.md section 6, column use)"
_SDK_DRIVES = "largest value of piper_sdk's motor settings 0x474, 0x475 (robot_bridge.md section 6)"
_OURS = "ours: settles in about 0.15 s at sim_dt 0.005 s (tests/scenes)"


@dataclass(frozen=True)
class _Row:
    """One joint: twist alpha [deg], length a [m], angle at zero theta [deg], offset d [m]."""

    alpha: float
    a: float
    theta: float
    d: float

    def frame(self) -> tuple[Vec3, Quat]:
        """Pose in the parent at joint angle zero: turn alpha about x, shift a and d, turn theta."""
        sin, cos = math.sin(math.radians(self.alpha)), math.cos(math.radians(self.alpha))
        sx, cx = math.sin(math.radians(self.alpha) / 2), math.cos(math.radians(self.alpha) / 2)
        sz, cz = math.sin(math.radians(self.theta) / 2), math.cos(math.radians(self.theta) / 2)
        return (self.a, -sin * self.d, cos * self.d), (cx * cz, sx * cz, -sx * sz, cx * sz)


_ROWS = (
    _Row(0.0, 0.0, 0.0, 0.123),
    _Row(-90.0, 0.0, -172.22, 0.0),
    _Row(0.0, 0.28503, -102.78, 0.0),
    _Row(90.0, -0.02198, 0.0, 0.25075),
    _Row(-90.0, 0.0, 0.0, 0.0),
    _Row(90.0, 0.0, 0.0, 0.091),
)

# AgileX mounts the gripper straight on the flange. It looks the same after half a turn about its
# axis, and only so turned does its x look forward while the fingers point down (FINGERS_DOWN).
_HAND_QUAT: Quat = (0.0, 0.0, 0.0, 1.0)

# The hand leans forward by this [rad] at home and in tasks: with its fingers straight down it can
# hardly leave the table, as the fifth joint ends at 1.22 rad. The governor's cone is 30 degrees.
LEAN = math.radians(20)
LEANING: Quat = (0.0, math.cos(LEAN / 2), 0.0, math.sin(LEAN / 2))

# mass [kg], centre of mass [m], inertia xx yy zz xy xz yz [kg m^2] of base_link, link1..link6.
_INERTIALS: tuple[tuple[float, Vec3, Inertia], ...] = (
    (
        1.02,
        (-0.00473641, 2.56829e-05, 0.0414515),
        (0.00267433, 0.00282612, 0.00089624, -7.3e-07, -0.00017389, 4e-07),
    ),
    (
        0.71,
        (0.000121505, 0.000104632, -0.00438597),
        (0.00048916, 0.00040472, 0.00043982, -3.6e-07, -2.24e-06, -2.42e-06),
    ),
    (
        1.17,
        (0.198666, -0.0109269, 0.00142122),
        (0.00116918, 0.06785384, 0.06774489, -0.00180037, 0.00025146, -4.55e-06),
    ),
    (
        0.5,
        (-0.0202738, -0.133915, -0.000458683),
        (0.01361711, 0.00045024, 0.01380322, 0.00165794, -4.8e-07, -4.5e-07),
    ),
    (
        0.38,
        (-9.66636e-05, 0.000876064, -0.00496881),
        (0.00018501, 0.00018965, 0.00015484, 5.4e-07, 1.2e-06, -8.41e-06),
    ),
    (
        0.383,
        (-4.10554e-05, -0.0566487, -0.00372058),
        (0.00166169, 0.0001851, 0.00164321, 6e-08, -7e-08, 1.026e-05),
    ),
    (
        0.007,
        (-8.82591e-05, 9.05984e-06, -0.002),
        (5.73016e-07, 5.73016e-07, 1.06739e-06, 0.0, 0.0, 0.0),
    ),
)

_SOURCES = (
    ("q_min", _SDK_LIMITS),
    ("q_max", _SDK_LIMITS),
    ("dq_max", _SDK_DRIVES),
    ("ddq_max", _SDK_DRIVES),
    ("jerk_max", "piper-planner 0.1.3's limit; AgileX states none (robot_bridge.md section 1)"),
    ("tau_max", "MIT torque field of 8 N m, times 4 on joints 1-3 (robot_bridge.md 2 and 6)"),
    ("home", "ours: over the workspace, the hand leaning forward by 20 degrees (LEAN)"),
    ("kp", _OURS),
    ("kd", _OURS),
    ("armature", "ours: AgileX states no rotor inertia"),
    ("damping", "ours: AgileX states no joint friction"),
    ("links", f"frames {_DH}; masses and inertias {_URDF}"),
    ("gripper", _GRIPPER),
    ("geoms", "ours, by eye around the link frames"),
    ("flange_pos", f"{_DH}: its last row ends at the flange"),
    ("ee_pos", "finger frames of AgileX piper_description, 0.1358 m; not measured on an arm"),
    ("ee_quat", "ours: half a turn about the symmetric gripper's axis (_HAND_QUAT)"),
    ("workspace_low", "ours: where the hand can lean as at home (tests/scenes)"),
    ("workspace_high", "ours: where the hand can lean as at home (tests/scenes)"),
    ("base_pos", "convention: base at the world origin"),
    ("base_quat", "convention: base at the world origin"),
)


@register_robot("piper")
def piper() -> RobotSpec:
    """The Piper with the AgileX gripper; see `sources` for where each number comes from."""
    return RobotSpec(
        name="piper",
        joint_names=tuple(f"joint{i}" for i in range(1, 7)),
        q_min=(-2.617, 0.0, -2.967, -1.745, -1.22, -1.745),
        q_max=(2.617, 3.14, 0.0, 1.745, 1.22, 1.745),
        dq_max=(3.0,) * 6,
        ddq_max=(5.0,) * 6,
        jerk_max=(20.0,) * 6,
        tau_max=(32.0,) * 3 + (8.0,) * 3,
        home=(0.0, 1.4237, -1.0292, 0.0, 0.9145, 0.0),
        kp=(400.0, 600.0, 400.0, 80.0, 80.0, 50.0),
        kd=(18.0, 29.0, 19.0, 3.5, 3.5, 2.1),
        armature=(0.05,) * 3 + (0.01,) * 3,
        damping=(0.2,) * 6,
        links=_chain(),
        gripper=_gripper(),
        geoms=(*_arm_geoms(), *_gripper_geoms()),
        flange_pos=(0.0, 0.0, 0.0),
        ee_pos=(0.0, 0.0, 0.1358),
        ee_quat=_HAND_QUAT,
        workspace_low=(0.2, -0.15, 0.0),
        workspace_high=(0.44, 0.15, 0.15),
        sources=_SOURCES,
    )


def _chain() -> tuple[LinkSpec, ...]:
    base: tuple[Vec3, Quat] = ((0.0, 0.0, 0.0), UNIT_QUAT)
    frames = (base, *(row.frame() for row in _ROWS))
    return tuple(
        LinkSpec(name=f"link{i}", pos=pos, quat=quat, mass=mass, com=com, inertia=inertia)
        for i, ((pos, quat), (mass, com, inertia)) in enumerate(
            zip(frames, _INERTIALS, strict=True)
        )
    )


def _gripper() -> GripperSpec:
    """Build the AgileX gripper: finger travel 0..0.035 m, width 0..0.07 m."""
    return GripperSpec(
        hand=LinkSpec(
            name="hand",
            quat=_HAND_QUAT,
            mass=0.45,
            com=(0.000183807, -8.05033e-05, 0.0321437),
            inertia=(0.00092934, 0.00071447, 0.00039442, 3.4e-07, 7.38e-06, -5e-08),
        ),
        # AgileX gives the finger in a frame turned by 90 deg about x; here in the hand's axes.
        finger=LinkSpec(
            name="finger",
            pos=(0.0, 0.0, 0.1358),
            mass=0.025,
            com=(-0.00065, 0.00972, -0.04919),
            inertia=(7.371e-05, 7.47e-05, 7.81e-06, -2.1e-07, 1.13e-06, -1.372e-05),
        ),
        finger_range=(0.0, 0.035),
        kp=1000.0,
        kd=30.0,
        force_max=40.0,
        armature=0.1,
        pad_friction=(1.0, 0.005, 0.0001),
        pad_solref=(0.01, 1.0),
        pad_solimp=(0.99, 0.995, 0.01),
    )


def _arm_geoms() -> tuple[GeomSpec, ...]:
    """Primitive shape [m]; only forearm and wrist can meet the table and collide.

    Colliders are not drawn, so those two stand twice.
    """
    forearm = (
        ("link3", (0, -0.03, 0), (-0.02198, -0.18, 0), 0.03),
        ("link3", (-0.02198, -0.18, 0), (-0.02198, -0.24, 0), 0.028),
        ("link5", (0, 0, 0), (0, -0.06, 0), 0.028),
    )
    return (
        *(tube(*shape, arm=collides) for shape in forearm for collides in (False, True)),
        GeomSpec(body="link0", kind="box", size=(0.06, 0.05, 0.02), pos=(-0.01, 0, 0.02)),
        disc("link0", (0, 0, 0.0), (0, 0, 0.09), 0.045, WHITE),
        disc("link1", (0, 0, -0.033), (0, 0, 0.0), 0.046, GREY),
        disc("link1", (0, -0.045, 0), (0, 0.045, 0), 0.045, WHITE),
        tube("link2", (0.03, 0, 0), (0.25, -0.01, 0), 0.034),
        disc("link2", (0.28503, 0, -0.045), (0.28503, 0, 0.045), 0.04, GREY),
        disc("link4", (0, 0, -0.03), (0, 0, 0.0), 0.032, GREY),
        disc("link4", (0, -0.032, 0), (0, 0.032, 0), 0.03, WHITE),
        disc("link6", (0, 0, -0.012), (0, 0, 0.0), 0.03, BLACK),
    )


def _gripper_geoms() -> tuple[GeomSpec, ...]:
    return (
        GeomSpec(body="hand", kind="box", size=(0.03, 0.055, 0.03), pos=(0, 0, 0.035), rgba=WHITE),
        GeomSpec(
            body="hand",
            kind="capsule",
            size=(0.032,),
            start=(0, -0.05, 0.034),
            end=(0, 0.05, 0.034),
            role="hand",
        ),
        GeomSpec(
            body="finger",
            kind="box",
            size=(0.009, 0.006, 0.032),
            pos=(0, 0.012, -0.042),
            rgba=GREY,
        ),
        GeomSpec(
            body="finger",
            kind="box",
            size=(0.01, 0.006, 0.012),
            pos=(0, 0.006, 0.0),
            rgba=BLACK,
            role="pad",
        ),
    )
