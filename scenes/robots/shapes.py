"""Primitives that robots are drawn with, in the frame of a link [m]."""

from scenes.contract.robot import GeomSpec, Rgba
from scenes.contract.rotations import Vec3

WHITE: Rgba = (0.93, 0.94, 0.95, 1.0)
GREY: Rgba = (0.36, 0.38, 0.40, 1.0)
BLACK: Rgba = (0.12, 0.12, 0.13, 1.0)


def tube(
    body: str, start: Vec3, end: Vec3, radius: float, *, rgba: Rgba = WHITE, arm: bool = False
) -> GeomSpec:
    """Draw a capsule between two points [m]; `arm`: it also meets the table."""
    return GeomSpec(
        body=body,
        kind="capsule",
        size=(radius,),
        start=start,
        end=end,
        rgba=rgba,
        role="arm" if arm else "visual",
    )


def disc(body: str, start: Vec3, end: Vec3, radius: float, rgba: Rgba) -> GeomSpec:
    """Draw a cylinder between two points [m]."""
    return GeomSpec(body=body, kind="cylinder", size=(radius,), start=start, end=end, rgba=rgba)
