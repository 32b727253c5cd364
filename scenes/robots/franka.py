"""What the Franka Panda (FER) and the FR3 share: the chain, the hand and a shape of primitives.

Frames, masses and the hand are the numbers of the MuJoCo Menagerie model `franka_emika_panda`
(Apache-2.0, copyright 2022 Franka Emika GmbH and DeepMind), which the wheel gym-hil 0.1.13 carries
as `gym_hil/assets/panda.xml` and, with the Franka Hand, Playground's `mjx_panda.xml`.
The primitive shapes are ours, drawn around those frames.
"""

import math
from collections.abc import Sequence

from scenes.contract.robot import GeomSpec, GripperSpec, LinkSpec, Rgba
from scenes.contract.rotations import Inertia, Quat, Vec3
from scenes.robots.shapes import BLACK, GREY, WHITE, disc, tube

MENAGERIE = "MuJoCo Menagerie franka_emika_panda (Apache-2.0), as in gym-hil 0.1.13 panda.xml"
MENAGERIE_HAND = "MuJoCo Menagerie franka_emika_panda hand, mjx_panda.xml"

_TURN: Quat = (math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0)  # +90 deg about x
_BACK: Quat = (math.sqrt(0.5), -math.sqrt(0.5), 0.0, 0.0)  # -90 deg about x

# Frame of link 0..7 in its parent; the same for both arms (Menagerie panda.xml; fr3.xml agrees).
LINK_FRAMES: tuple[tuple[Vec3, Quat], ...] = (
    ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0)),
    ((0.0, 0.0, 0.333), (1.0, 0.0, 0.0, 0.0)),
    ((0.0, 0.0, 0.0), _BACK),
    ((0.0, -0.316, 0.0), _TURN),
    ((0.0825, 0.0, 0.0), _TURN),
    ((-0.0825, 0.384, 0.0), _BACK),
    ((0.0, 0.0, 0.0), _TURN),
    ((0.088, 0.0, 0.0), _TURN),
)
FLANGE_POS: Vec3 = (0.0, 0.0, 0.107)
# The hand is mounted turned by -45 deg about the flange's z.
HAND_QUAT: Quat = (math.cos(math.pi / 8), 0.0, 0.0, -math.sin(math.pi / 8))
# Tool centre between the fingertips in the hand frame (Franka Hand manual; robot_bridge.md 6).
EE_POS: Vec3 = (0.0, 0.0, 0.1034)

# Sources of what both arms share, for RobotSpec.sources.
SHARED_SOURCES = (
    ("home", "Franka ready pose (0, -pi/4, 0, -3pi/4, 0, pi/2, pi/4), robot_bridge.md section 6"),
    ("kp", "ours: with kd it settles in about 0.15 s at sim_dt 0.005 s (tests/scenes)"),
    ("kd", "ours: near critical damping over the table (step responses in tests/scenes)"),
    ("gripper", f"{MENAGERIE_HAND}; kp, kd ours; force_max 70 N from memory (robot_bridge.md 6)"),
    ("geoms", f"ours, by eye; hand capsule and pads from {MENAGERIE_HAND}"),
    ("flange_pos", MENAGERIE),
    ("ee_pos", "Franka Hand tool centre, 0.1034 m (robot_bridge.md section 6)"),
    ("ee_quat", "Franka Hand mounted at -45 deg (robot_bridge.md section 6; Menagerie)"),
    ("workspace_low", "SERL PandaPickCube target box (serl_family.md 2.1)"),
    ("workspace_high", "SERL PandaPickCube target box (serl_family.md 2.1)"),
    ("base_pos", "convention: base at the world origin, as gym-hil"),
    ("base_quat", "convention: base at the world origin, as gym-hil"),
)

BLUE: Rgba = (0.04, 0.54, 0.78, 1.0)


def chain(inertials: Sequence[tuple[float, Vec3, Inertia]]) -> tuple[LinkSpec, ...]:
    """Link 0..7 from (mass [kg], centre of mass [m], inertia [kg m^2]) of each."""
    return tuple(
        LinkSpec(name=f"link{i}", pos=pos, quat=quat, mass=mass, com=com, inertia=inertia)
        for i, ((pos, quat), (mass, com, inertia)) in enumerate(
            zip(LINK_FRAMES, inertials, strict=True)
        )
    )


def franka_hand() -> GripperSpec:
    """Build the Franka Hand: finger travel 0..0.04 m, width 0..0.08 m.

    Frames, masses and pad softness from Menagerie. kp is ours: fully closed on a 4 cm cube it
    asks for kp * 0.02 m = 20 N (the real hand: 70 N, unverified), kd makes it critically damped
    with the armature (Menagerie: 0.1 kg per finger).
    """
    return GripperSpec(
        hand=LinkSpec(
            name="hand",
            pos=FLANGE_POS,
            quat=HAND_QUAT,
            mass=0.73,
            com=(-0.01, 0.0, 0.03),
            inertia=(0.001, 0.0025, 0.0017, 0.0, 0.0, 0.0),
        ),
        finger=LinkSpec(
            name="finger",
            pos=(0.0, 0.0, 0.0584),
            mass=0.015,
            com=(0.0, 0.0, 0.0),
            inertia=(2.375e-6, 2.375e-6, 7.5e-7, 0.0, 0.0, 0.0),
        ),
        finger_range=(0.0, 0.04),
        kp=1000.0,
        kd=30.0,
        force_max=70.0,
        armature=0.1,
        pad_friction=(1.0, 0.005, 0.0001),
        pad_solref=(0.01, 1.0),
        pad_solimp=(0.99, 0.995, 0.01),
    )


def franka_geoms() -> tuple[GeomSpec, ...]:
    """Primitive shape [m] of arm and hand, drawn by eye around the frames.

    Only what can meet the table collides: forearm, wrist and hand, and the two finger pads.
    """
    return (*_base_and_shoulder(), *_elbow_and_forearm(), *_wrist(), *_hand(), *_fingers())


def _base_and_shoulder() -> tuple[GeomSpec, ...]:
    return (
        GeomSpec(
            body="link0", kind="box", size=(0.1, 0.085, 0.03), pos=(-0.05, 0, 0.03), rgba=WHITE
        ),
        disc("link0", (0, 0, 0.0), (0, 0, 0.14), 0.075, WHITE),
        disc("link1", (0, 0, -0.192), (0, 0, -0.18), 0.07, GREY),
        tube("link1", (0, 0, -0.14), (0, 0, -0.02), 0.06),
        disc("link1", (0, -0.075, 0), (0, 0.075, 0), 0.06, WHITE),
        disc("link2", (0, 0, -0.085), (0, 0, 0.085), 0.05, GREY),
        tube("link2", (0, -0.04, 0), (0, -0.17, 0), 0.06),
    )


def _elbow_and_forearm() -> tuple[GeomSpec, ...]:
    return (
        disc("link3", (0, 0, -0.125), (0, 0, -0.113), 0.062, GREY),
        tube("link3", (0, 0, -0.07), (0.05, 0, -0.01), 0.055),
        disc("link3", (0.0825, -0.07, 0), (0.0825, 0.07, 0), 0.052, WHITE),
        disc("link4", (0, 0, -0.08), (0, 0, 0.08), 0.044, GREY),
        tube("link4", (0, 0, 0), (-0.0825, 0.075, 0), 0.05),
        disc("link5", (0, 0, -0.245), (0, 0, -0.235), 0.062, GREY),
        tube("link5", (0, 0, -0.2), (0, 0.05, -0.1), 0.055),
        tube("link5", (0, 0.06, -0.14), (0, 0.06, -0.03), 0.045, arm=True),
        disc("link5", (0, -0.06, 0), (0, 0.09, 0), 0.046, WHITE),
    )


def _wrist() -> tuple[GeomSpec, ...]:
    return (
        disc("link6", (0, 0, -0.075), (0, 0, 0.075), 0.042, GREY),
        tube("link6", (0, 0, 0), (0.07, 0, 0), 0.042),
        disc("link6", (0.088, 0.062, 0), (0.088, -0.05, 0), 0.05, WHITE),
        disc("link7", (0, 0, 0.052), (0, 0, 0.062), 0.051, BLUE),
        disc("link7", (0, 0, 0.062), (0, 0, 0.107), 0.045, GREY),
        GeomSpec(body="link7", kind="sphere", size=(0.055,), pos=(0, 0, 0.05), role="arm"),
    )


def _hand() -> tuple[GeomSpec, ...]:
    return (
        GeomSpec(body="hand", kind="box", size=(0.031, 0.102, 0.026), pos=(0, 0, 0.04), rgba=WHITE),
        GeomSpec(body="hand", kind="box", size=(0.025, 0.09, 0.012), pos=(0, 0, 0.01), rgba=BLACK),
        # Menagerie mjx_panda.xml: hand_capsule, radius 0.04 and half length 0.06 along y.
        GeomSpec(
            body="hand",
            kind="capsule",
            size=(0.04,),
            start=(0, -0.06, 0.03),
            end=(0, 0.06, 0.03),
            role="hand",
        ),
    )


def _fingers() -> tuple[GeomSpec, ...]:
    # Pad from Menagerie mjx_panda.xml: fingertip_pad_collision_4; the rest is only drawn.
    return (
        GeomSpec(body="finger", kind="box", size=(0.0105, 0.0075, 0.02), pos=(0, 0.0145, 0.018)),
        GeomSpec(
            body="finger",
            kind="box",
            size=(0.00875, 0.0076, 0.00825),
            pos=(0, 0.00758, 0.04525),
            rgba=BLACK,
            role="pad",
        ),
    )
