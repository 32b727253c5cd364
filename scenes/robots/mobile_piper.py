"""Two Pipers on a wheeled base, the left one driven: the robot of PiperMobileRobot-v0.

Places are those of the ancestor's mobile_ai.xml (3DGS_Vectorized_SERL, reference serl_family.md
0 and 2.1): a Scout Mini with a frame that carries both arms. The kinematics, inertias and drives
are our Piper's; the shapes are ours, by eye. Nothing here can be driven by the bridge, so it is no
entry of the registry: the base is put under the arm by the scene (`scenes.bases.Planar`).
"""

import dataclasses

import numpy as np

from scenes.contract.robot import GeomSpec, LinkSpec, RobotSpec
from scenes.contract.rotations import Vec3, quat_to_matrix
from scenes.robots.piper import piper
from scenes.robots.shapes import BLACK, GREY, WHITE, disc, tube

# In the frame of the chassis [m]: both arms' bases, wheels (middle, radius, width).
_LEFT: Vec3 = (0.0666, 0.2584, 0.879)
_RIGHT: Vec3 = (0.0675, -0.2577, 0.879)
_WHEELS = tuple((x, y, 0.215) for x in (0.23, -0.23) for y in (0.205, -0.205))
_WHEEL_RADIUS, _WHEEL_HALF_WIDTH = 0.082, 0.035
# Of the chassis where episodes begin, over the floor [m].
_CHASSIS: Vec3 = (0.15, 0.0, -0.133)
# The camera "3rd", in the frame of the chassis [m] and wxyz; fovy 65 deg.
THIRD_POS: Vec3 = (0.0818 + 0.079397, 0.0, 1.283 + 0.0047 + 0.126541)
THIRD_QUAT = (0.64084856, 0.29885303, -0.29885303, -0.64084855)
# Scout Mini 23 kg (AgileX data sheet, from memory), frame 5 kg (mobile_ai.xml), right arm 4.6 kg.
_MASS = 23.0 + 5.0 + 4.6


def over_the_floor(point: Vec3) -> Vec3:
    """Where a point of the chassis is, over the floor, where episodes begin [m]."""
    (a, b, c), (x, y, z) = _CHASSIS, point
    return a + x, b + y, c + z


def left_base() -> Vec3:
    """Where the base of the driven arm is over the floor [m]."""
    return over_the_floor(_LEFT)


def mobile_piper() -> RobotSpec:
    """The left Piper with the ancestor's joint limits and home; the rest is part of its base."""
    robot = piper()
    base, grip = robot.links[0], robot.parallel_gripper
    heavy = LinkSpec(
        name=base.name,
        mass=base.mass + _MASS,
        com=_from_left((0.0, 0.0, 0.35)),
        inertia=(2.0, 2.0, 1.5, 0.0, 0.0, 0.0),
    )
    ancestor = "PiperMobileRobot-v0 (serl_family.md 2.1)"
    drives = "the Piper's, four times as stiff and as well damped: ours, see above"
    changed = dict.fromkeys(("q_min", "q_max", "home"), ancestor)
    changed |= dict.fromkeys(("kp", "kd"), drives)
    changed |= {
        "links": f"{dict(robot.sources)['links']}; base: masses said here, inertia ours",
    }
    return dataclasses.replace(
        robot,
        name="mobile_piper",
        q_min=(-2.618, 0.0, -2.697, -1.832, -1.22, -3.14),
        q_max=(2.618, 3.14, 0.0, 1.832, 1.22, 3.14),
        home=(0.0, 1.1, -0.95, 0.0, 0.976, 0.0),
        # A step of 0.03 rad from where the arm is, every 0.03 s, is 1 rad/s for the arm itself and
        # half of that for our softer Piper: too slow to reach across the table in an episode.
        kp=tuple(4.0 * k for k in robot.kp),
        kd=tuple(2.0 * k for k in robot.kd),
        gripper=dataclasses.replace(grip, kp=4.0 * grip.kp, kd=2.0 * grip.kd),
        links=(heavy, *robot.links[1:]),
        geoms=(*robot.geoms, *_chassis(), *_still(robot)),
        sources=tuple((field, changed.get(field, text)) for field, text in robot.sources),
    )


def _from_left(point: Vec3) -> Vec3:
    """A point of the chassis in the frame of the left arm's base [m]."""
    (x, y, z), (a, b, c) = point, _LEFT
    return x - a, y - b, z - c


def _chassis() -> tuple[GeomSpec, ...]:
    """Chassis, wheels, a column with the bar that both arms stand on, a mast for the camera."""

    def box(half_size: Vec3, middle: Vec3, rgba: tuple[float, float, float, float]) -> GeomSpec:
        at = _from_left(middle)
        return GeomSpec(body="link0", kind="box", size=half_size, pos=at, rgba=rgba)

    def post(start: Vec3, end: Vec3, radius: float) -> GeomSpec:
        return disc("link0", _from_left(start), _from_left(end), radius, GREY)

    return (
        box((0.28, 0.16, 0.06), (0.0, 0.0, 0.24), BLACK),
        box((0.2, 0.14, 0.03), (0.0, 0.0, 0.33), WHITE),
        box((0.05, 0.07, 0.24), (0.0, 0.0, 0.6), WHITE),
        box((0.06, 0.32, 0.018), (0.066, 0.0, 0.86), GREY),
        post((0.07, 0.0, 0.87), (0.07, 0.0, 1.27), 0.018),
        post((0.0818, 0.0, 1.26), (0.0818, 0.0, 1.33), 0.045),
        *(
            disc(
                "link0",
                _from_left((x, y - _WHEEL_HALF_WIDTH, z)),
                _from_left((x, y + _WHEEL_HALF_WIDTH, z)),
                _WHEEL_RADIUS,
                BLACK,
            )
            for x, y, z in _WHEELS
        ),
    )


def _still(robot: RobotSpec) -> tuple[GeomSpec, ...]:
    """The right arm at joint angles zero, where the ancestor leaves it, drawn on the base.

    Its boxes would stand aslant, which a GeomSpec cannot say: two tubes stand for the fingers.
    """
    hand = tuple(
        tube("hand", (0.0, side * 0.03, 0.05), (0.0, side * 0.03, 0.14), 0.01, rgba=BLACK)
        for side in (-1.0, 1.0)
    )
    frames, drawn = _frames_at_zero(robot), []
    for geom in (*robot.geoms, *hand):
        # Colliders are drawn but for the arm's, which have a twin (`piper`).
        if geom.start is None or geom.end is None or geom.role == "arm":
            continue
        turn, shift = frames[geom.body]
        start, end = (_placed(turn @ point + shift) for point in (geom.start, geom.end))
        drawn.append(dataclasses.replace(geom, body="link0", start=start, end=end, role="visual"))
    return tuple(drawn)


def _frames_at_zero(robot: RobotSpec) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Rotation and place of each link and of the hand in the frame of the arm's base [m]."""
    frames: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    turn, shift = np.eye(3), np.zeros(3)
    for link in (*robot.links, robot.parallel_gripper.hand):
        shift = shift + turn @ np.asarray(link.pos)
        turn = turn @ quat_to_matrix(link.quat)
        frames[link.name] = turn, shift
    return frames


def _placed(point: np.ndarray) -> Vec3:
    """A point in the frame of the right arm's base in that of the left one's [m]."""
    (x, y, z), (a, b, c) = point.tolist(), _from_left(_RIGHT)
    return x + a, y + b, z + c
