"""The Universal Robots UR5e with a Robotiq 2F-85, in the controller's own frame "Base".

That frame is the pendant's: with all joints at zero the arm lies along -x, so an arm that works
along +x has its first joint near half a turn. The primitive shapes are ours, drawn around frames.
"""

import math

from scenes.contract.robot import GeomSpec, LinkSpec, RobotSpec
from scenes.contract.rotations import UNIT_QUAT, Inertia, Quat, Vec3
from scenes.robots.registry import register_robot
from scenes.robots.robotiq import MANUAL, MENAGERIE, PAD_Z, robotiq_2f85, robotiq_geoms
from scenes.robots.shapes import BLACK, GREY, WHITE, disc, tube

_TURN: Quat = (math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0)  # +90 deg about x
_BACK: Quat = (math.sqrt(0.5), -math.sqrt(0.5), 0.0, 0.0)  # -90 deg about x

# Universal Robots' Denavit-Hartenberg parameters of the UR5e [m].
D1, A2, A3, D4, D5, D6 = 0.1625, -0.425, -0.3922, 0.1333, 0.0997, 0.0996
# Frame of link 0..6 in its parent: those parameters with each joint about its own z. Link 6 is the
# flange.
_FRAMES: tuple[tuple[Vec3, Quat], ...] = (
    ((0.0, 0.0, 0.0), UNIT_QUAT),
    ((0.0, 0.0, D1), UNIT_QUAT),
    ((0.0, 0.0, 0.0), _TURN),
    ((A2, 0.0, 0.0), UNIT_QUAT),
    ((A3, 0.0, D4), UNIT_QUAT),
    ((0.0, -D5, 0.0), _TURN),
    ((0.0, D6, 0.0), _BACK),
)
# Mass [kg], centre of mass [m], quarter turns about x of the axes of the inertia xx yy zz xy xz yz
# [kg m^2], of link 0..6.
_INERTIALS: tuple[tuple[float, Vec3, int, Inertia], ...] = (
    (4.0, (0, 0, 0), 0, (0.00443333, 0.00443333, 0.0072, 0, 0, 0)),
    (
        *(3.761, (0.0, -0.00193, -0.02561), 1),
        (0.00700210, 0.00648091, 0.00657286, 0.00000073, -0.00001053, 0.00049994),
    ),
    (
        *(8.058, (-0.2125, 0.0, 0.11336), 0),
        (0.01505885, 0.33388086, 0.33247207, -0.00005400, 0.00000563, -0.00000181),
    ),
    (
        *(2.846, (-0.2422, 0.0, 0.0265), 0),
        (0.00399632, 0.07879254, 0.07848510, -0.00001365, 0.00137272, -0.00000660),
    ),
    (
        *(1.37, (0.0, -0.01634, -0.0018), 1),
        (0.00165491, 0.00135962, 0.00126279, -0.00000282, -0.00000438, 0.00010157),
    ),
    (
        *(1.3, (0.0, 0.01634, -0.0018), -1),
        (0.00135617, 0.00127827, 0.00096614, -0.00000274, 0.00000444, -0.00005048),
    ),
    (
        *(0.365, (0.0, 0.0, -0.001159), 0),
        (0.00018694, 0.00018908, 0.00025756, 0.00000006, -0.00000017, -0.00000092),
    ),
)

_UR = "Universal Robots' ROS 2 description (BSD-3-Clause), config/ur5e"
_LIMITS = f"{_UR}/joint_limits.yaml, after the UR5e user manual 5.8"
_ARM = "MuJoCo Menagerie universal_robots_ur5e (BSD-3-Clause)"
_SOURCES = (
    ("q_min", f"{_LIMITS}; the elbow's is halved there, as it cannot turn further anyway"),
    ("q_max", f"{_LIMITS}; the elbow's is halved there, as it cannot turn further anyway"),
    ("dq_max", _LIMITS),
    ("ddq_max", "ours: Universal Robots states none; five times what the governor allows"),
    ("jerk_max", "ours: Universal Robots states none; five times what the governor allows"),
    ("tau_max", f"{_LIMITS} and its article on joint torques"),
    ("home", "ours: tool centre at (0.4, 0, 0.2) m, fingers down, elbow up"),
    ("kp", "ours: stiff enough to follow 0.25 m/s (step responses in tests/scenes)"),
    ("kd", "ours: near critical damping over the table (step responses in tests/scenes)"),
    ("armature", _ARM),
    ("damping", f"{_ARM}: none"),
    ("links", f"DH parameters of Universal Robots; {_UR}/physical_parameters.yaml; base {_ARM}"),
    ("gripper", f"{MENAGERIE} (frames, masses, friction); {MANUAL}; kp, kd, armature, rod ours"),
    ("geoms", f"ours, by eye, offsets from {_UR}; pads from Menagerie's pad_box1 and pad_box2"),
    ("flange_pos", "DH parameters of Universal Robots: the last frame is the flange"),
    ("ee_pos", f"middle of the pads, {MENAGERIE}; without Robotiq's coupling"),
    ("ee_quat", "ours: the fingers close along the flange's y"),
    ("workspace_low", "ours: what the tool reaches pointing down, with room to the singularities"),
    ("workspace_high", "ours: what the tool reaches pointing down, with room to the singularities"),
    ("base_pos", "convention: base at the world origin"),
    ("base_quat", "convention: the world's axes are those of the controller's frame Base"),
)


@register_robot("ur5e_2f85")
def ur5e_2f85() -> RobotSpec:
    """The UR5e with the 2F-85 on its flange; see `sources` for where each number comes from."""
    turn, half = 2 * math.pi, math.pi
    return RobotSpec(
        name="ur5e_2f85",
        joint_names=(
            *("shoulder_pan_joint", "shoulder_lift_joint", "elbow_joint"),
            *("wrist_1_joint", "wrist_2_joint", "wrist_3_joint"),
        ),
        q_min=(-turn, -turn, -half, -turn, -turn, -turn),
        q_max=(turn, turn, half, turn, turn, turn),
        dq_max=(math.pi,) * 6,
        ddq_max=(25.0,) * 6,
        jerk_max=(2500.0,) * 6,
        tau_max=(150.0,) * 3 + (28.0,) * 3,
        home=(2.801844, -1.784534, 2.140715, -1.926977, -1.570796, -1.910545),
        kp=(8000.0, 8000.0, 5000.0, 2000.0, 2000.0, 1500.0),
        kd=(280.0, 300.0, 180.0, 55.0, 45.0, 30.0),
        armature=(0.1,) * 6,
        damping=(0.0,) * 6,
        links=_chain(),
        gripper=robotiq_2f85(flange=(0.0, 0.0, 0.0), turn=UNIT_QUAT),
        geoms=(*_arm_geoms(), *_wrist_geoms(), *robotiq_geoms()),
        flange_pos=(0.0, 0.0, 0.0),
        ee_pos=(0.0, 0.0, PAD_Z),
        ee_quat=UNIT_QUAT,
        workspace_low=(0.25, -0.25, 0.0),
        workspace_high=(0.55, 0.25, 0.4),
        sources=_SOURCES,
    )


def _chain() -> tuple[LinkSpec, ...]:
    return tuple(
        LinkSpec(
            name=f"link{i}", pos=pos, quat=quat, mass=mass, com=com, inertia=_turned(axes, way)
        )
        for i, ((pos, quat), (mass, com, way, axes)) in enumerate(
            zip(_FRAMES, _INERTIALS, strict=True)
        )
    )


def _turned(inertia: Inertia, way: int) -> Inertia:
    """The inertia in link axes, given in axes turned by `way` quarter turns about x."""
    if way == 0:
        return inertia
    xx, yy, zz, xy, xz, yz = inertia
    return xx, zz, yy, -way * xz, way * xy, -yz


def _arm_geoms() -> tuple[GeomSpec, ...]:
    """Base to forearm; of these only the forearm can meet the table."""
    return (
        disc("link0", (0, 0, 0.0), (0, 0, 0.09), 0.07, GREY),
        disc("link1", (0, 0, -0.07), (0, 0, 0.06), 0.058, WHITE),
        disc("link1", (0, -0.07, 0), (0, 0, 0), 0.058, WHITE),
        disc("link2", (0, 0, 0.07), (0, 0, 0.195), 0.058, GREY),
        tube("link2", (0, 0, 0.138), (A2, 0, 0.138), 0.05),
        disc("link2", (A2, 0, 0.07), (A2, 0, 0.19), 0.052, GREY),
        disc("link3", (0, 0, -0.04), (0, 0, 0.07), 0.05, WHITE),
        *(
            tube("link3", (0, 0, 0.007), (A3, 0, 0.007), 0.042, arm=collides)
            for collides in (False, True)
        ),
        disc("link3", (A3, 0, -0.04), (A3, 0, 0.06), 0.042, GREY),
    )


def _wrist_geoms() -> tuple[GeomSpec, ...]:
    return (
        disc("link4", (0, 0, -0.075), (0, 0, 0.045), 0.04, WHITE),
        disc("link4", (0, -0.05, 0), (0, 0, 0), 0.04, WHITE),
        disc("link5", (0, 0, -0.05), (0, 0, 0.045), 0.04, GREY),
        disc("link5", (0, 0, 0), (0, 0.06, 0), 0.04, WHITE),
        GeomSpec(body="link5", kind="sphere", size=(0.045,), role="arm"),
        disc("link6", (0, 0, -0.04), (0, 0, 0.0), 0.035, BLACK),
    )
