"""The Franka Panda (Franka Emika Robot, FER) with the Franka Hand."""

import dataclasses

from scenes.contract.robot import RobotSpec
from scenes.contract.rotations import Inertia, Vec3
from scenes.robots.franka import (
    EE_POS,
    FLANGE_POS,
    HAND_QUAT,
    MENAGERIE,
    SHARED_SOURCES,
    chain,
    franka_geoms,
    franka_hand,
)
from scenes.robots.registry import register_robot

# mass [kg], centre of mass [m], inertia xx yy zz xy xz yz [kg m^2] of link 0..7 (Menagerie).
_INERTIALS: tuple[tuple[float, Vec3, Inertia], ...] = (
    (
        0.629769,
        (-0.041018, -0.00014, 0.049974),
        (0.00315, 0.00388, 0.004285, 8.2904e-7, 0.00015, 8.2299e-6),
    ),
    (
        4.970684,
        (0.003875, 0.002081, -0.04762),
        (0.70337, 0.70661, 0.009117, -0.000139, 0.006772, 0.019169),
    ),
    (
        0.646926,
        (-0.003141, -0.02872, 0.003495),
        (0.007962, 0.02811, 0.025995, -0.003925, 0.010254, 0.000704),
    ),
    (
        3.228604,
        (0.027518, 0.039252, -0.066502),
        (0.037242, 0.036155, 0.01083, -0.004761, -0.011396, -0.012805),
    ),
    (
        3.587895,
        (-0.05317, 0.104419, 0.027454),
        (0.025853, 0.019552, 0.028323, 0.007796, -0.001332, 0.008641),
    ),
    (
        1.225946,
        (-0.011953, 0.041065, -0.038437),
        (0.035549, 0.029474, 0.008627, -0.002117, -0.004037, 0.000229),
    ),
    (
        1.666555,
        (0.060149, -0.014117, -0.010517),
        (0.001964, 0.004354, 0.005433, 0.000109, -0.001158, 0.000341),
    ),
    (
        0.735522,
        (0.010517, -0.004252, 0.061597),
        (0.012516, 0.010027, 0.004815, -0.000428, -0.001196, -0.000741),
    ),
)

_FER = "Franka FER joint limits, panda_py.constants (robot_bridge.md section 6)"
_LIBFRANKA = "libfranka 0.9.2 rate_limiting.h (robot_bridge.md section 6)"
_SOURCES = (
    ("q_min", _FER),
    ("q_max", _FER),
    ("dq_max", _LIBFRANKA),
    ("ddq_max", _LIBFRANKA),
    ("jerk_max", _LIBFRANKA),
    ("tau_max", _LIBFRANKA),
    ("armature", MENAGERIE),
    ("damping", MENAGERIE),
    ("links", MENAGERIE),
)


@register_robot("panda")
def panda() -> RobotSpec:
    """The Panda with the Franka Hand; see `sources` for where each number comes from."""
    return RobotSpec(
        name="panda",
        joint_names=tuple(f"joint{i}" for i in range(1, 8)),
        q_min=(-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973),
        q_max=(2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973),
        dq_max=(2.175,) * 4 + (2.61,) * 3,
        ddq_max=(15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0),
        jerk_max=(7500.0, 3750.0, 5000.0, 6250.0, 7500.0, 10000.0, 10000.0),
        tau_max=(87.0,) * 4 + (12.0,) * 3,
        home=(0.0, -0.785398, 0.0, -2.356194, 0.0, 1.570796, 0.785398),
        kp=(4500.0, 4500.0, 3500.0, 3500.0, 2000.0, 2000.0, 2000.0),
        kd=(190.0, 190.0, 140.0, 130.0, 35.0, 35.0, 35.0),
        armature=(0.1,) * 7,
        damping=(1.0,) * 7,
        links=chain(_INERTIALS),
        gripper=franka_hand(),
        geoms=franka_geoms(),
        flange_pos=FLANGE_POS,
        ee_pos=EE_POS,
        ee_quat=HAND_QUAT,
        workspace_low=(0.2, -0.3, 0.0),
        workspace_high=(0.6, 0.3, 0.5),
        sources=_SOURCES + SHARED_SOURCES,
    )


# Joint gains of franka_ros' impedance examples [N m/rad], [N m s/rad]: at a workplace half a metre
# away about the 2,000 to 3,000 N/m that SERL's compliance mode has.
_SOFT_KP = (600.0, 600.0, 600.0, 600.0, 250.0, 150.0, 50.0)
_SOFT_KD = (50.0, 50.0, 50.0, 50.0, 30.0, 25.0, 15.0)


def soft_panda(target: Vec3, low: Vec3, high: Vec3) -> RobotSpec:
    """The Panda as compliant as for work in contact, with a box around one place.

    Args:
        target: that place, in the frame of the base [m].
        low, high: corners of the workspace from there [m].
    """
    corners = (tuple(t + d for t, d in zip(target, box, strict=True)) for box in (low, high))
    (a, b, c), (d, e, f) = corners
    return dataclasses.replace(
        panda(),
        workspace_low=(a, b, c),
        workspace_high=(d, e, f),
        kp=_SOFT_KP,
        kd=_SOFT_KD,
    )
