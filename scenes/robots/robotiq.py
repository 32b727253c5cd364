"""The Robotiq 2F-85 as a parallel gripper, and the Franka arms that carry it.

The real one closes by four-bar linkages whose tips also move along the hand; here they only slide.
Numbers are those of the MuJoCo Menagerie model `robotiq_2f85` (BSD-2-Clause) with its linkage
open, and of Robotiq's instruction manual; the primitive shapes are ours.
"""

import dataclasses

from scenes.contract.robot import GeomSpec, GripperSpec, LinkSpec, RobotSpec
from scenes.contract.rotations import Quat, Vec3, full_inertia
from scenes.robots.fr3 import fr3
from scenes.robots.franka import FLANGE_POS, HAND_QUAT
from scenes.robots.panda import panda
from scenes.robots.registry import register_robot
from scenes.robots.shapes import BLACK, GREY, disc

MENAGERIE = "MuJoCo Menagerie robotiq_2f85/2f85.xml (BSD-2-Clause)"
MANUAL = (
    "Robotiq 2F-85 instruction manual, specifications: stroke 85 mm, grip force 20 to 235 N, "
    "finger speed 20 to 150 mm/s"
)
WIDTH = 0.085  # [m]
SPEED = 0.150  # [m/s] of the opening
# Frame of the pads along the hand: base 0.0108, spring link 0.0609, follower 0.0375, pad 0.01352,
# and the middle of its two boxes at 0.01875 [m] (Menagerie).
PAD_Z = 0.0108 + 0.0609 + 0.0375 + 0.01352 + 0.01875
# Driver, coupler, spring link, follower and pad of one side [kg] (Menagerie).
_FINGER_MASS = 0.00899563 + 0.0140974 + 0.0221642 + 0.0125222 + 0.0035


def robotiq_2f85(*, flange: Vec3 = FLANGE_POS, turn: Quat = HAND_QUAT) -> GripperSpec:
    """Build the 2F-85: finger travel 0..0.0425 m, width 0..0.085 m.

    Args:
        flange: in the frame of the last link [m]; a Franka's by default.
        turn: of the hand on the flange, wxyz; as the Franka Hand's by default.

    kp, kd, armature and the pads' softness are the Franka Hand's: closed on a 4 cm cube it asks for
    20 N, the manual's least, and it closes faster than the real one's `speed_max`, which the
    simulated drive does not keep (the damping that would keep it is too stiff for steps of 5 ms).
    """
    travel = WIDTH / 2
    return GripperSpec(
        hand=LinkSpec(
            name="hand",
            pos=flange,
            quat=turn,
            mass=0.777441,
            com=(0.0, -2.70394e-05, 0.0108 + 0.0354675),
            inertia=full_inertia(
                (1.0, -0.00152849, 0.0, 0.0), (0.000260285, 0.000225381, 0.000152708)
            ),
        ),
        finger=LinkSpec(
            name="finger",
            pos=(0.0, 0.0, PAD_Z),
            mass=_FINGER_MASS,
            # Ours: the linkage as one rod of 8 cm behind the pad.
            com=(0.0, 0.01, -0.04),
            inertia=(3.3e-5, 3.3e-5, 3.0e-6, 0.0, 0.0, 0.0),
        ),
        finger_range=(0.0, travel),
        kp=1000.0,
        kd=30.0,
        force_max=235.0,
        armature=0.1,
        pad_friction=(0.7, 0.005, 0.0001),
        pad_solref=(0.01, 1.0),
        pad_solimp=(0.99, 0.995, 0.01),
        speed_max=SPEED,
    )


def robotiq_geoms() -> tuple[GeomSpec, ...]:
    """Primitive shape [m] of the 2F-85: palm and pads; the pads as Menagerie's two boxes in one."""
    return (
        disc("hand", (0, 0, 0.005), (0, 0, 0.095), 0.0375, BLACK),
        GeomSpec(
            body="hand",
            kind="capsule",
            size=(0.035,),
            start=(0, -0.03, 0.06),
            end=(0, 0.03, 0.06),
            role="hand",
        ),
        GeomSpec(
            body="finger", kind="box", size=(0.011, 0.006, 0.03), pos=(0, 0.014, -0.035), rgba=GREY
        ),
        GeomSpec(
            body="finger",
            kind="box",
            size=(0.011, 0.004, 0.01875),
            pos=(0, 0.004, 0),
            rgba=BLACK,
            role="pad",
        ),
    )


@register_robot("panda_2f85")
def panda_2f85() -> RobotSpec:
    """The Panda with the 2F-85 in place of its hand, as in SERL's and gym-hil's simulators."""
    return _with_2f85(panda())


@register_robot("fr3_2f85")
def fr3_2f85() -> RobotSpec:
    """The FR3 with the 2F-85 in place of its hand."""
    return _with_2f85(fr3())


def _with_2f85(robot: RobotSpec) -> RobotSpec:
    arm = tuple(geom for geom in robot.geoms if geom.body not in ("hand", "finger"))
    changed = {
        "gripper": f"{MENAGERIE} (frames, masses, friction); {MANUAL}; kp, kd, armature, rod ours",
        "geoms": "ours, by eye; pads from Menagerie's pad_box1 and pad_box2",
        "ee_pos": f"middle of the pads, {MENAGERIE}",
        "ee_quat": "ours: mounted as the Franka Hand",
    }
    return dataclasses.replace(
        robot,
        name=f"{robot.name}_2f85",
        gripper=robotiq_2f85(),
        geoms=(*arm, *robotiq_geoms()),
        ee_pos=(0.0, 0.0, PAD_Z),
        sources=tuple((field, changed.get(field, text)) for field, text in robot.sources),
    )
