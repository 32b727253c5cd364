"""What a model draws, as points on its surfaces: triangles, sampling, occlusion."""

import copy
import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields

import mujoco
import numpy as np
from jaxtyping import Bool, Float, Int

from scenes.contract.errors import InputError
from scenes.contract.rotations import quat_to_matrix

Triangles = tuple[Float[np.ndarray, "V 3"], Int[np.ndarray, "F 3"]]

# MuJoCo's viewers hide groups 3 to 5, and so do we (scenes/mjcf.py puts colliders into 3).
_FIRST_HIDDEN_GROUP = 3
_INFINITE_PLANE = 2.0  # [m] half size drawn of a plane whose size is 0, which means infinite
_SAG = 2e-4  # [m] of a chord off its circle; less than _LIFT, or rays would start inside
_MOST_SEGMENTS = 400  # of a circle
_RAYS = 16  # per point; a splat averages those of about ten points
_REACH = 0.15  # [m] how far occluders darken
_LIFT = 5e-4  # [m] rays start this far off the surface
# Roberts' R2 sequence (2018): multiples of these, modulo 1, fill a square evenly.
_EVEN = np.array([0.7548776662466927, 0.5698402909980532])
_PLANE_THICKNESS = 2e-4  # [m] half of it; less than _LIFT, or a plane would shade itself
# No ray that leaves the surface of one of these meets it again.
_CONVEX = np.array(
    [
        mujoco.mjtGeom.mjGEOM_SPHERE,
        mujoco.mjtGeom.mjGEOM_CAPSULE,
        mujoco.mjtGeom.mjGEOM_ELLIPSOID,
        mujoco.mjtGeom.mjGEOM_CYLINDER,
        mujoco.mjtGeom.mjGEOM_BOX,
    ],
    int,
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Samples:
    """N points on surfaces, in the frames of their bodies.

    Attributes:
        points: positions [m].
        normals: unit vectors, outward.
        rgba: in [0, 1]; not lit, occlusion included once it is known.
        area: what each point stands for [m^2].
        body_id: of the model.
        geom_id: of the model.
    """

    points: Float[np.ndarray, "N 3"]
    normals: Float[np.ndarray, "N 3"]
    rgba: Float[np.ndarray, "N 4"]
    area: Float[np.ndarray, " N"]
    body_id: Int[np.ndarray, " N"]
    geom_id: Int[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.points)

    def take(self, index: np.ndarray) -> "Samples":
        """Return the samples at an index or mask."""
        return Samples(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


def join(parts: Collection[Samples]) -> Samples:
    """Return samples put together; raises ValueError where there is none."""
    if not parts:
        raise InputError("bake: no geom is drawn; allowed: groups 0 to 2 with a visible colour")
    columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(Samples)}
    return Samples(**{name: np.concatenate(values) for name, values in columns.items()})


def drawn_geoms(model: mujoco.MjModel, skip_bodies: Collection[str] = ()) -> list[int]:
    """Return the ids of the geoms that are seen, without those of the bodies named."""
    skipped = {model.body(name).id for name in skip_bodies}
    return [
        geom
        for geom in range(model.ngeom)
        if model.geom_group[geom] < _FIRST_HIDDEN_GROUP
        and geom_rgba(model, geom)[3] > 0.02
        and int(model.geom_bodyid[geom]) not in skipped
    ]


def geom_rgba(model: mujoco.MjModel, geom: int) -> Float[np.ndarray, " 4"]:
    """Return the colour of a geom: its material's where it has one."""
    material = model.geom_matid[geom]
    return model.mat_rgba[material] if material >= 0 else model.geom_rgba[geom]


def is_plane(model: mujoco.MjModel, geom: int) -> bool:
    """Return whether a geom is a plane."""
    return model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_PLANE


def geom_triangles(model: mujoco.MjModel, geom: int) -> Triangles:
    """Vertices [m] in the geom's frame and faces; raises ValueError for a kind without surface."""
    kind = mujoco.mjtGeom(model.geom_type[geom])
    if kind == mujoco.mjtGeom.mjGEOM_MESH:
        return _mesh(model, int(model.geom_dataid[geom]))
    if kind not in _PRIMITIVES:
        raise InputError(
            f"bake: geom {geom} '{model.geom(geom).name}' is a {kind.name[7:].lower()}, allowed: "
            "mesh, box, sphere, capsule, cylinder, ellipsoid, plane; hide it in group 3"
        )
    return _PRIMITIVES[kind](np.asarray(model.geom_size[geom], np.float64))


def triangle_areas(triangles: Triangles) -> Float[np.ndarray, " F"]:
    """Return the area of each face [m^2]."""
    return np.linalg.norm(_face_normals(triangles), axis=1) / 2


def solid_around(
    model: mujoco.MjModel, data: mujoco.MjData, point: Float[np.ndarray, " 3"]
) -> str | None:
    """Return what is drawn around a point of the world [m]; None where it lies in the open.

    The solid angle of a closed surface is 4 pi from inside and 0 from outside (Van Oosterom and
    Strackee 1983, eq. 8).
    """
    for geom in drawn_geoms(model):
        if is_plane(model, geom):
            continue
        vertices, faces = geom_triangles(model, geom)
        local = data.geom_xmat[geom].reshape(3, 3).T @ (point - data.geom_xpos[geom])
        a, b, c = np.moveaxis((vertices - local)[faces], 1, 0)
        la, lb, lc = (np.linalg.norm(x, axis=1) for x in (a, b, c))
        dots = [np.einsum("fi,fi->f", x, y) for x, y in ((a, b), (b, c), (c, a))]
        below = la * lb * lc + dots[0] * lc + dots[1] * la + dots[2] * lb
        angle = 2 * np.arctan2(np.einsum("fi,fi->f", a, np.cross(b, c)), below).sum()
        if abs(angle) > 2 * np.pi:
            return (
                model.geom(geom).name
                or f"a geom of body '{model.body(model.geom_bodyid[geom]).name}'"
            )
    return None


def sample_geom(
    model: mujoco.MjModel, geom: int, count: int, rng: np.random.Generator, *, even: bool = False
) -> Samples:
    """Return `count` points spread over a geom; `even`ly, a plane, or as chance has it."""
    vertices, faces = triangles = geom_triangles(model, geom)
    areas = triangle_areas(triangles)
    steps = (np.arange(count) + rng.uniform(size=count)) / count
    face = np.searchsorted(np.cumsum(areas) / areas.sum(), steps).clip(max=len(faces) - 1)
    root, along = np.sqrt(rng.uniform(size=(count, 1))), rng.uniform(size=(count, 1))
    a, b, c = (vertices[faces[face, corner]] for corner in range(3))
    points = (1 - root) * a + root * (1 - along) * b + root * along * c
    if even:
        # Chance leaves gaps, and splats that are large enough to close them hide too much.
        square = (np.arange(count)[:, None] * _EVEN + rng.uniform(size=2)) % 1
        points[:, :2] = (2 * square - 1) * _plane_half_size(model.geom_size[geom])
    normals = _face_normals(triangles)[face] / (2 * areas[face, None])
    rotation = quat_to_matrix(model.geom_quat[geom])
    return Samples(
        points=points @ rotation.T + model.geom_pos[geom],
        normals=normals @ rotation.T,
        rgba=np.tile(geom_rgba(model, geom), (count, 1)).astype(np.float64),
        area=np.full(count, areas.sum() / count),
        body_id=np.full(count, model.geom_bodyid[geom]),
        geom_id=np.full(count, geom),
    )


def in_world(
    points: Float[np.ndarray, "N 3"], body_id: Int[np.ndarray, " N"], data: mujoco.MjData
) -> Float[np.ndarray, "N 3"]:
    """Return world positions [m] of points in body frames."""
    rotation = data.xmat.reshape(-1, 3, 3)[body_id]
    return np.einsum("nij,nj->ni", rotation, points) + data.xpos[body_id]


def openness(
    model: mujoco.MjModel, data: mujoco.MjData, samples: Samples, rng: np.random.Generator
) -> Float[np.ndarray, " N"]:
    """Share of the sky over each point that nothing near it on its own or a linked body covers.

    0 is inside something. Bodies that move freely past each other do not count: a cube keeps the
    face it lies on. Cosine-weighted rays, so the mean is ambient occlusion.
    """
    scene = _rays_scene(model)
    result = np.ones(len(samples))
    turns = rng.uniform(0, 2 * np.pi, len(samples))
    for body in np.unique(samples.body_id):
        _show_linked(scene, model, int(body))
        rotation, origin = data.xmat[body].reshape(3, 3), data.xpos[body]
        own = np.flatnonzero(samples.body_id == body)
        normals = np.matmul(rotation, samples.normals[own, :, None])[..., 0]
        points = np.matmul(rotation, samples.points[own, :, None])[..., 0]
        starts = points + origin + _LIFT * normals
        near = _has_neighbours(scene, data, starts, samples.geom_id[own])
        frames = _tangent_frames(normals[near]).swapaxes(1, 2)
        directions = _hemispheres(turns[own[near]]) @ frames
        result[own[near]] = _open_shares(scene, data, starts[near], directions)
    return result


def _has_neighbours(
    scene: mujoco.MjModel,
    data: mujoco.MjData,
    starts: Float[np.ndarray, "N 3"],
    geom_id: Int[np.ndarray, " N"],
) -> Bool[np.ndarray, " N"]:
    """Return where a ray can hit anything in reach: the box of another geom, or an own hollow."""
    result = ~np.isin(scene.geom_type[geom_id], _CONVEX)
    for geom in np.flatnonzero(scene.geom_group == 0):
        local = (starts - data.geom_xpos[geom]) @ data.geom_xmat[geom].reshape(3, 3)
        centre, half = np.split(scene.geom_aabb[geom], 2)
        beyond = (np.abs(local - centre) - half).clip(min=0)
        result |= (np.vecdot(beyond, beyond) <= _REACH**2) & (geom_id != geom)
    return result


def _open_shares(
    scene: mujoco.MjModel,
    data: mujoco.MjData,
    starts: Float[np.ndarray, "N 3"],
    directions: Float[np.ndarray, "N R 3"],
) -> list[float]:
    # One mj_ray after the other: mj_multiRay of MuJoCo 3.17 misses one hit in twenty.
    groups, geom = np.array([1, 0, 0, 0, 0, 0], np.uint8), np.zeros(1, np.int32)
    ray, shares = mujoco.mj_ray, []
    for start, rays in zip(starts, directions, strict=True):
        distance = [ray(scene, data, start, one, groups, 1, -1, geom) for one in rays]
        shares.append(sum(d < 0 or d > _REACH for d in distance) / _RAYS)
    return shares


def _rays_scene(model: mujoco.MjModel) -> mujoco.MjModel:
    """Return a copy of a model for rays: planes become boxes, for rays pass a plane from below."""
    scene = copy.copy(model)
    for geom in range(model.ngeom):
        if is_plane(model, geom):
            scene.geom_type[geom] = mujoco.mjtGeom.mjGEOM_BOX
            scene.geom_size[geom] = [*_plane_half_size(model.geom_size[geom]), _PLANE_THICKNESS]
            scene.geom_rbound[geom] = np.linalg.norm(scene.geom_size[geom])
            scene.geom_aabb[geom] = [0, 0, 0, *scene.geom_size[geom]]
    return scene


def _show_linked(scene: mujoco.MjModel, model: mujoco.MjModel, body: int) -> None:
    """Put into group 0 what is drawn on bodies linked to this one, all else into group 5."""
    group = int(model.body_weldid[body])
    shown = set(drawn_geoms(model))
    for geom in range(model.ngeom):
        other = int(model.body_weldid[model.geom_bodyid[geom]])
        linked = group == other or _hangs_on(model, group, other) or _hangs_on(model, other, group)
        scene.geom_group[geom] = 0 if linked and geom in shown else 5


def _hangs_on(model: mujoco.MjModel, child: int, parent: int) -> bool:
    """Return whether a welded group hangs on another by hinges or slides."""
    if child == 0 or int(model.body_weldid[model.body_parentid[child]]) != parent:
        return False
    first, count = int(model.body_jntadr[child]), int(model.body_jntnum[child])
    kinds = model.jnt_type[first : first + count]
    return count > 0 and bool(np.all(kinds != mujoco.mjtJoint.mjJNT_FREE))


def _hemispheres(turns: Float[np.ndarray, " N"]) -> Float[np.ndarray, "N R 3"]:
    """Return cosine-weighted directions around +z on sunflower spirals, each turned [rad]."""
    around, along, angles = _spiral()
    angle = angles + turns[:, None]
    directions = np.empty((len(turns), _RAYS, 3))
    directions[..., 0], directions[..., 1] = around * np.cos(angle), around * np.sin(angle)
    directions[..., 2] = along
    return directions


@functools.cache
def _spiral() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What all hemispheres share: distance from the axis, along the axis, and the angle."""
    u = (np.arange(_RAYS) + 0.5) / _RAYS
    return np.sqrt(u), np.sqrt(1 - u), np.pi * (3 - np.sqrt(5)) * np.arange(_RAYS)


def _tangent_frames(normals: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3 3"]:
    """Return rotations whose third columns are the normals."""
    first = np.cross(normals, np.eye(3)[np.argmin(np.abs(normals), axis=1)])
    first /= np.sqrt(np.vecdot(first, first))[:, None]
    return np.stack([first, np.cross(normals, first), normals], axis=2)


def _face_normals(triangles: Triangles) -> Float[np.ndarray, "F 3"]:
    """Return the outward normal of each face, twice its area long."""
    a, b, c = np.moveaxis(triangles[0][triangles[1]], 1, 0)
    return np.cross(b - a, c - a)


def _mesh(model: mujoco.MjModel, mesh: int) -> Triangles:
    vertex, face = int(model.mesh_vertadr[mesh]), int(model.mesh_faceadr[mesh])
    vertices = model.mesh_vert[vertex : vertex + int(model.mesh_vertnum[mesh])]
    faces = model.mesh_face[face : face + int(model.mesh_facenum[mesh])]
    triangles = np.asarray(vertices, np.float64), np.asarray(faces)
    whole = triangle_areas(triangles) > 1e-12
    return triangles[0], triangles[1][whole]


def _plane_half_size(size: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " 2"]:
    return np.where(size[:2] > 0, size[:2], _INFINITE_PLANE)


def _plane(size: Float[np.ndarray, " 3"]) -> Triangles:
    x, y = _plane_half_size(size)
    vertices = np.array([[-x, -y, 0], [x, -y, 0], [x, y, 0], [-x, y, 0]])
    return vertices, np.array([[0, 1, 2], [0, 2, 3]])


def _box(size: Float[np.ndarray, " 3"]) -> Triangles:
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [face for a, b, c, d in quads for face in ((a, b, c), (a, c, d))]
    return corners * size, np.array(faces)


def _revolve(radius: np.ndarray, z: np.ndarray, segments: int) -> Triangles:
    """Turn a profile, from its lowest to its highest point, about the z axis."""
    angle = 2 * np.pi * np.arange(segments) / segments
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    flat = radius[:, None, None] * circle
    rings = np.concatenate([flat, np.broadcast_to(z[:, None, None], (*flat.shape[:2], 1))], axis=-1)
    index = np.arange(rings.shape[0] * segments).reshape(-1, segments)
    a, b = index[:-1], np.roll(index, -1, axis=1)[:-1]
    c, d = np.roll(index, -1, axis=1)[1:], index[1:]
    faces = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)]).reshape(-1, 3)
    triangles = rings.reshape(-1, 3), faces
    return triangles[0], faces[triangle_areas(triangles) > 1e-12]


def _segments(radius: float) -> int:
    """Return how many chords keep within _SAG of a circle of this radius [m]."""
    return int(np.clip(np.pi / np.sqrt(2 * _SAG / radius), 12, _MOST_SEGMENTS))


def _half_circle(segments: int) -> tuple[np.ndarray, np.ndarray]:
    angle = np.linspace(-np.pi / 2, np.pi / 2, 2 * (segments // 4) + 2)
    return np.cos(angle).clip(min=0), np.sin(angle)


def _sphere(size: Float[np.ndarray, " 3"]) -> Triangles:
    return _ellipsoid(np.full(3, size[0]))


def _ellipsoid(size: Float[np.ndarray, " 3"]) -> Triangles:
    segments = _segments(size.max())
    vertices, faces = _revolve(*_half_circle(segments), segments)
    return vertices * size, faces


def _capsule(size: Float[np.ndarray, " 3"]) -> Triangles:
    segments = _segments(size[0])
    radius, z = _half_circle(segments)
    ends = np.where(z < 0, -size[1], size[1])
    return _revolve(size[0] * radius, size[0] * z + ends, segments)


def _cylinder(size: Float[np.ndarray, " 3"]) -> Triangles:
    return _revolve(
        size[0] * np.array([0.0, 1, 1, 0]), size[1] * np.array([-1.0, -1, 1, 1]), _segments(size[0])
    )


_PRIMITIVES: dict[mujoco.mjtGeom, Callable[[Float[np.ndarray, " 3"]], Triangles]] = {
    mujoco.mjtGeom.mjGEOM_PLANE: _plane,
    mujoco.mjtGeom.mjGEOM_BOX: _box,
    mujoco.mjtGeom.mjGEOM_SPHERE: _sphere,
    mujoco.mjtGeom.mjGEOM_ELLIPSOID: _ellipsoid,
    mujoco.mjtGeom.mjGEOM_CAPSULE: _capsule,
    mujoco.mjtGeom.mjGEOM_CYLINDER: _cylinder,
}
