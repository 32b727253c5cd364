"""An ObjectSpec as MJCF: a body with its joint and its solids."""

from collections.abc import Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any

import mujoco

from scenes.contract.errors import UnknownNameError
from scenes.contract.names import unknown_name
from scenes.mjcf_robot import FINGERS, MASKS, find_body
from scenes.shapes import (
    Box,
    Capsule,
    Chain,
    Cylinder,
    FixedMount,
    FreeMount,
    HeldMount,
    HingedMount,
    MarkerMount,
    Mesh,
    Mount,
    Part,
    SlidingMount,
    Solid,
    Sphere,
    parts_of,
)
from scenes.specs import MountedArm, ObjectSpec


def add_object(builder: mujoco.MjSpec, entry: ObjectSpec, arms: Sequence[MountedArm] = ()) -> None:
    """Add an object; of `arms`, which are there already, one may hold it.

    Raises FileNotFoundError where a mesh's file is not there, KeyError for an unknown arm.
    """
    if isinstance(entry.mount, HeldMount):
        body = _in_hand(builder, entry, entry.mount.role, arms)
    else:
        body = builder.worldbody.add_body(name=entry.name, pos=entry.pos, quat=entry.quat)
        add_mount(entry.mount, body, entry.name)
    for i, part in enumerate(parts_of(entry.solid)):
        if i and isinstance(entry.shape, Chain):
            body = _next_link(body, entry.shape, geom_name(entry.name, i))
        _add_solid(builder, body, entry, i, part)


def _add_solid(
    builder: mujoco.MjSpec, body: mujoco.MjsBody, entry: ObjectSpec, i: int, part: Part
) -> None:
    name, parts, mass = geom_name(entry.name, i), parts_of(entry.solid), entry.mass or 0.0
    shares = sum(part.mass_share for part in parts)
    contype, conaffinity = MASKS[_role(entry)] if part.touches else (0, 0)
    geom = body.add_geom(
        name=name,
        mass=mass if len(parts) == 1 else mass * part.mass_share / shares,
        friction=entry.friction,
        contype=contype,
        conaffinity=conaffinity,
        rgba=entry.rgba if part.rgba is None else part.rgba,
        **solid_geom(part.shape, builder, name),
    )
    geom.pos, geom.quat = part.pos, part.quat
    if entry.contact is not None:
        geom.solref = entry.contact.solref
        geom.solimp = [*entry.contact.solimp, 0.5, 2.0]
        geom.priority = 1


def _role(entry: ObjectSpec) -> str:
    if isinstance(entry.mount, MarkerMount):
        return "visual"
    # As a hand a chain touches the table and objects and, of its own kind, nothing.
    return "hand" if isinstance(entry.shape, Chain) else "object"


def _next_link(before: mujoco.MjsBody, chain: Chain, name: str) -> mujoco.MjsBody:
    link = before.add_body(name=name, pos=(0.0, 0.0, chain.length))
    for axis, direction in (("x", (1.0, 0.0, 0.0)), ("y", (0.0, 1.0, 0.0))):
        link.add_joint(
            name=f"{name}_{axis}",
            type=mujoco.mjtJoint.mjJNT_HINGE,
            axis=direction,
            stiffness=chain.stiffness,
            damping=chain.damping,
            armature=chain.armature,
        )
    return link


def _in_hand(
    builder: mujoco.MjSpec, entry: ObjectSpec, role: str, arms: Sequence[MountedArm]
) -> mujoco.MjsBody:
    by_role = {arm.role: arm for arm in arms}
    if role not in by_role:
        raise UnknownNameError(unknown_name(f"arm that holds '{entry.name}'", role, by_role))
    arm = by_role[role]
    gripper = arm.robot.gripper
    if gripper is None:
        raise UnknownNameError(f"Object '{entry.name}' is held, and its arm has no gripper.")
    hand = find_body(builder, arm.prefix + gripper.hand.name)
    pos = [a + b for a, b in zip(arm.robot.ee_pos, entry.pos, strict=True)]
    for name, _ in FINGERS:
        builder.add_exclude(bodyname1=arm.prefix + name, bodyname2=entry.name)
    return hand.add_body(name=entry.name, pos=pos, quat=entry.quat, gravcomp=1.0)


def geom_name(name: str, i: int) -> str:
    """Name of an object's solid: the first is called as the object, the others are numbered."""
    return name if i == 0 else f"{name}_{i}"


@singledispatch
def solid_geom(solid: Solid, builder: mujoco.MjSpec, name: str) -> dict[str, Any]:
    """Type and size of a solid's geom, as arguments of `add_geom`."""
    raise TypeError(f"'{name}': a shape must be a solid of scenes.shapes, got {solid!r}.")


@solid_geom.register
def _box(solid: Box, builder: mujoco.MjSpec, name: str) -> dict[str, Any]:
    del builder, name
    return {"type": mujoco.mjtGeom.mjGEOM_BOX, "size": solid.half_size}


@solid_geom.register
def _cylinder(solid: Cylinder, builder: mujoco.MjSpec, name: str) -> dict[str, Any]:
    del builder, name
    size = [solid.radius, solid.half_height, 0.0]
    return {"type": mujoco.mjtGeom.mjGEOM_CYLINDER, "size": size}


@solid_geom.register
def _capsule(solid: Capsule, builder: mujoco.MjSpec, name: str) -> dict[str, Any]:
    del builder, name
    size = [solid.radius, solid.half_height, 0.0]
    return {"type": mujoco.mjtGeom.mjGEOM_CAPSULE, "size": size}


@solid_geom.register
def _sphere(solid: Sphere, builder: mujoco.MjSpec, name: str) -> dict[str, Any]:
    del builder, name
    return {"type": mujoco.mjtGeom.mjGEOM_SPHERE, "size": [solid.radius, 0.0, 0.0]}


@solid_geom.register
def _mesh(solid: Mesh, builder: mujoco.MjSpec, name: str) -> dict[str, Any]:
    path = Path(solid.file).expanduser().resolve()
    if not path.is_file():
        raise FileNotFoundError(f"Object '{name}': its mesh {path} is not there.")
    builder.add_mesh(name=f"{name}_mesh", file=str(path), scale=solid.scale)
    return {"type": mujoco.mjtGeom.mjGEOM_MESH, "meshname": f"{name}_mesh"}


@singledispatch
def add_mount(mount: Mount, body: mujoco.MjsBody, name: str) -> None:
    """Give an object its joint."""
    del body
    raise TypeError(f"'{name}': a mount must be one of scenes.shapes, got {mount!r}.")


@add_mount.register
def _fixed(mount: FixedMount, body: mujoco.MjsBody, name: str) -> None:
    del mount, body, name


@add_mount.register
def _marker(mount: MarkerMount, body: mujoco.MjsBody, name: str) -> None:
    del mount, name
    body.mocap = True


@add_mount.register
def _free(mount: FreeMount, body: mujoco.MjsBody, name: str) -> None:
    del mount
    body.add_freejoint(name=f"{name}_free")


@add_mount.register
def _hinged(mount: HingedMount, body: mujoco.MjsBody, name: str) -> None:
    body.add_joint(
        name=f"{name}_hinge",
        type=mujoco.mjtJoint.mjJNT_HINGE,
        pos=mount.pos,
        **_limits(mount),
    )


@add_mount.register
def _sliding(mount: SlidingMount, body: mujoco.MjsBody, name: str) -> None:
    body.add_joint(name=f"{name}_slide", type=mujoco.mjtJoint.mjJNT_SLIDE, **_limits(mount))


def _limits(mount: HingedMount | SlidingMount) -> dict[str, Any]:
    return {
        "axis": mount.axis,
        "limited": mount.range is not None,
        "range": mount.range or (0.0, 0.0),
        "damping": mount.damping,
        "frictionloss": mount.friction,
    }


def object_home(entry: ObjectSpec) -> list[float]:
    """What an object adds to the keyframe's qpos: its pose, a zero for each joint, or nothing."""
    if isinstance(entry.shape, Chain):
        return [0.0] * entry.shape.bends
    one = dict.fromkeys((HingedMount, SlidingMount), 1)
    lengths = {FreeMount: 7, **one} | dict.fromkeys((FixedMount, HeldMount, MarkerMount), 0)
    zeros = [0.0] * lengths[type(entry.mount)]
    return [*entry.pos, *entry.quat] if len(zeros) == 7 else zeros
