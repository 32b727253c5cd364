"""What every render backend must hold: the reference's pictures, and JAX's transformations.

A backend's test file calls `check_picture` for each of PICTURES and `check_behaviour` for each of
BEHAVIOURS with its `Subject`. The figures are those of issue 2 and of splat_rendering.md sections
3 and 9: opacities stay below 0.95 because float32 and float64 may stop at different splats where
saturated ones leave 1e-4 of the light to the last digit.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import splat_scenes as scenes

from scenes.contract.rotations import quats_to_matrices
from splat_render.backend import load_backend
from splat_render.backends import reference
from splat_render.types import (
    Background,
    BodyPoses,
    CameraBatch,
    Frame,
    GaussianSet,
    RasterConfig,
)

# Splats and bodies of all scenes, and their worlds before a background: one number each, so that a
# compiled program serves many cases.
COUNT = 600
BODIES = scenes.NUM_BODIES
LOOKS = 4
# Bodies that the splats of clouds are on.
_USED = 4


@dataclass(frozen=True)
class Subject:
    """A backend under test.

    Attributes:
        name: of the backend.
        mean: error allowed on average, of rgb, alpha, and depth in units of the farthest depth.
        max: error allowed at a pixel.
        config: entries of every RasterConfig, for rasterisers with compiled-in limits.
        without: pictures and behaviours it does not claim, each with the reason.
    """

    name: str
    mean: float = 1e-6
    max: float = 1e-3
    config: Mapping[str, Any] = field(default_factory=dict)
    without: Mapping[str, str] = field(default_factory=dict)

    @property
    def backend(self) -> Any:
        return load_backend(self.name)

    def draw(self, case: "Case") -> Frame:
        """One call as a user makes it: jitted where that is possible."""
        return _drawer(self.name, self.backend.TRACEABLE)(
            *_on_device(case[:3]), self.size(case), *_on_device((case.background, case.look))
        )

    def wanted(self, case: "Case") -> Frame:
        return reference.rasterize(*case[:3], self.size(case), case.background, case.look)

    def size(self, case: "Case") -> RasterConfig:
        return replace(case.config, **self.config)


class Case(NamedTuple):
    """The arguments of one call."""

    splats: GaussianSet
    poses: BodyPoses
    cameras: CameraBatch
    config: RasterConfig
    background: Background | None = None
    look: Any = None


def check_picture(subject: Subject, name: str) -> None:
    """Compare one of PICTURES with the reference."""
    _skip_unclaimed(subject, name)
    case = PICTURES[name]()
    want = subject.wanted(case)
    assert_same(subject.draw(case), want, subject)
    if name not in _EMPTY:
        assert np.asarray(want.alpha).max() > 0.1, "the case shows nothing"


def check_behaviour(subject: Subject, name: str) -> None:
    """Run one of BEHAVIOURS."""
    _skip_unclaimed(subject, name)
    BEHAVIOURS[name](subject)


def assert_same(got: Frame, want: Frame, subject: Subject) -> None:
    """Raise unless rgb, depth and alpha agree within the subject's errors."""
    assert got.rgb.dtype == want.rgb.dtype
    for name, unit in (("rgb", 1.0), ("depth", _farthest(want)), ("alpha", 1.0)):
        a, b = (np.asarray(getattr(frame, name)) for frame in (got, want))
        assert a.shape == b.shape, (name, a.shape, b.shape)
        error = np.abs(a.astype(np.float64) - b) / unit
        if error.size == 0:
            continue
        assert error.max() <= subject.max, f"{name}: max error {error.max():.2e}"
        assert error.mean() <= subject.mean, f"{name}: mean error {error.mean():.2e}"


# ---------------------------------------------------------------------------------------------
# Pictures


def cloud(degree: int, **changes: Any) -> Case:
    """Blobs on turned bodies; `changes` are the config's."""
    size = scenes.config(**changes)
    splats = scenes.cloud(COUNT, degree=degree, num_bodies=_USED)
    return Case(splats, random_world(), scenes.cameras(size), size)


def random_world(seed: int = 0) -> BodyPoses:
    """Turned bodies where splats are, the others still."""
    turned, still = scenes.random_world(_USED, seed=seed), scenes.still_world(BODIES - _USED)
    return jax.tree.map(lambda *xs: np.concatenate(xs), turned, still)


def table(degree: int = 0, **changes: Any) -> Case:
    size = scenes.config(**changes)
    splats = scenes.table_scene(COUNT, degree=degree)
    return Case(splats, scenes.table_poses(), scenes.table_camera(size), size)


def off_centre() -> Case:
    """A picture that no tile divides, and a camera of any K."""
    case = cloud(2, width=100, height=72)
    cameras = scenes.cameras(case.config, stretch=1.3, offset=(7.5, -4.25))
    return case._replace(cameras=cameras)


def inside_the_cloud() -> Case:
    """Splats around the camera: behind it, across the near plane, far outside its picture."""
    case = cloud(0, antialiased=False)
    return case._replace(cameras=scenes.cameras(case.config, [(0.05, 0.03, 0.02)]))


def at_the_near_plane() -> Case:
    """Centres on both sides of the near plane, too near for their size."""
    case = flat_grid(cloud(0))
    means = np.array(case.splats.means)
    means[:, 2] = -1.0 + case.config.near + np.linspace(-0.05, 0.05, COUNT)
    return case._replace(splats=replace(case.splats, means=np.float32(means * [0.02, 0.02, 1])))


def facing_away() -> Case:
    case = cloud(0)
    away = scenes.look_at((1.3, -0.9, 0.6), (4.0, -3.0, 1.0))
    return case._replace(cameras=replace(case.cameras, viewmats=np.float32(away)[None]))


def needles() -> Case:
    """Some long and thin, some of no thickness at all."""
    case = cloud(0)
    scales = np.array(case.splats.scales)
    scales[::20] = (0.5, 1e-4, 1e-4)
    scales[10::20, 2] = 0.0
    return case._replace(splats=replace(case.splats, scales=scales))


def huge() -> Case:
    """A splat of five metres around the camera, in front of and behind the others."""
    case = cloud(0)
    scales, opacities = np.array(case.splats.scales), np.array(case.splats.opacities)
    scales[:4], opacities[:4] = 5.0, 0.3
    return case._replace(splats=replace(case.splats, scales=scales, opacities=opacities))


def at_the_side() -> Case:
    """Large splats so far to the side that the Jacobian's clamp decides how they look."""
    case = cloud(0)
    means = np.array(case.splats.means)
    eye = np.array([0.0, -0.6, 0.0])
    side = np.where(np.arange(COUNT) % 2, 1.0, -1.0)
    means[:, 0] += side * 0.9
    scales = np.float32(case.splats.scales * 4 + 0.15)
    return case._replace(
        splats=replace(case.splats, means=np.float32(means), scales=scales),
        cameras=scenes.cameras(case.config, [eye]),
        poses=scenes.still_world(BODIES),
    )


def faint() -> Case:
    """Opacities just above, at and below the cutoff, on nothing and on each other."""
    case = cloud(0, antialiased=False)
    cutoff = np.float32(case.config.alpha_min)
    levels = np.array([0.5, 0.999, 1.0, 1.001, 2.0, 100.0], np.float32) * cutoff
    return case._replace(splats=replace(case.splats, opacities=np.resize(levels, COUNT)))


def flat_grid(case: Case) -> Case:
    """All splats unturned in the world's frame, seen along its z from one metre."""
    view = np.eye(4, dtype=np.float32)
    view[2, 3] = 1.0
    return case._replace(
        poses=scenes.still_world(BODIES), cameras=replace(case.cameras, viewmats=view[None])
    )


def equal_depths() -> Case:
    """Four planes of splats at one depth each: their order is that of the set."""
    case = flat_grid(cloud(0))
    means = np.array(case.splats.means)
    means[:, 2] = np.array([0.0, 0.25, 0.5, -0.25])[np.arange(COUNT) % 4]
    return case._replace(splats=replace(case.splats, means=means))


def no_splats() -> Case:
    case = cloud(0)
    return case._replace(splats=jax.tree.map(lambda x: x[:0], case.splats))


def worlds(count: int = 3, *, degree: int = 1, size: int = 24) -> Case:
    """Worlds that differ in the bodies' poses and in both cameras."""
    shape = scenes.config(size, size)
    poses = [random_world(seed=i) for i in range(count)]
    eyes = [[(1.3, -0.9, 0.6 + 0.1 * i), (-1.1, 0.8 - 0.2 * i, 0.9)] for i in range(count)]
    cameras = [scenes.cameras(shape, eye) for eye in eyes]
    splats = scenes.cloud(COUNT, degree=degree, num_bodies=_USED)
    return Case(splats, _stack(poses), _stack(cameras), shape)


def looks(count: int = LOOKS) -> Case:
    """Worlds before one of two backgrounds, parts of which are empty."""
    case = worlds(count)
    rng = np.random.default_rng(3)
    shape = (2, 2, case.config.height, case.config.width)
    # Away from any splat's depth, for there float32 and float64 may differ.
    depth = np.float32(rng.choice([1.1, 1.4, 1.7, 2.0], shape))
    depth[:, :, : shape[2] // 3] = np.inf
    background = Background(np.float32(rng.uniform(size=(*shape, 3))), depth)
    return case._replace(background=background, look=np.int32(np.arange(count) % 2))


def fading() -> Case:
    """Bodies of which one is gone, one half there, each with a tint, in worlds that differ."""
    case, rng = worlds(), np.random.default_rng(4)
    shown = rng.choice(np.float32([0.0, 0.5, 1.0]), case.poses.xpos.shape[:-1])
    gain = np.float32(rng.uniform(0.2, 2.0, case.poses.xpos.shape))
    return case._replace(poses=replace(case.poses, opacity=shown, gain=gain))


def far_behind_a_background() -> Case:
    """A background with holes, in which nothing is this far."""
    case = looks()
    background = case.background
    assert background is not None
    holes = np.arange(background.depth.shape[-1]) % 3 == 0
    depth = np.where(holes, np.inf, background.depth).astype(np.float32)
    config = replace(case.config, far=7.0)
    return case._replace(config=config, background=replace(background, depth=depth))


def one_world_before_a_background() -> Case:
    case = looks(1)
    poses, cameras = jax.tree.map(lambda x: x[0], (case.poses, case.cameras))
    return case._replace(poses=poses, cameras=cameras, look=None)


PICTURES: dict[str, Callable[[], Case]] = {
    "cloud_sh0": functools.partial(cloud, 0),
    "cloud_sh3": functools.partial(cloud, 3),
    "cloud_classic": functools.partial(cloud, 0, antialiased=False),
    "surface_sh0": table,
    "surface_sh3": functools.partial(table, 3),
    "surface_sh1_128": functools.partial(table, 1, width=128, height=128),
    "cloud_on_gray_84x84": functools.partial(cloud, 0, width=84, height=84, color=(0.5, 0.4, 0.3)),
    "cloud_sh2_100x72": off_centre,
    "13x5": functools.partial(cloud, 0, width=13, height=5),
    "1x1": functools.partial(cloud, 0, width=1, height=1, antialiased=False),
    "inside_the_cloud": inside_the_cloud,
    "at_the_near_plane": at_the_near_plane,
    "facing_away": facing_away,
    "needles": needles,
    "huge": huge,
    "at_the_side": at_the_side,
    "faint": faint,
    "equal_depths": equal_depths,
    "no_splats": no_splats,
    "worlds": worlds,
    "background": looks,
    "fading": fading,
    "background_one_world": one_world_before_a_background,
    "far_behind_a_surface": functools.partial(table, 0, far=7.0),
    "far_behind_a_background": far_behind_a_background,
}
_EMPTY = ("facing_away", "no_splats", "faint")
# For a `Subject.without`: of backends whose depth is the mean of what is seen, not the median.
MEAN_DEPTH = {
    name: "its depth is the mean of what is seen" for name in PICTURES if name.startswith("far_")
}


# ---------------------------------------------------------------------------------------------
# Behaviours


def bytes_are_the_floats_rounded(subject: Subject) -> None:
    case = table()
    floats = np.asarray(subject.draw(case).rgb)
    frame = subject.draw(case._replace(config=scenes.config(rgb_dtype="uint8")))
    assert frame.rgb.dtype == jnp.uint8
    error = np.abs(np.asarray(frame.rgb, np.float32) - 255 * np.clip(floats, 0, 1))
    assert error.max() <= 0.5 + 1e-3


def jit_is_eager(subject: Subject) -> None:
    case = _small(looks())
    args = _on_device(case[:3])
    rest = _on_device((case.background, case.look))
    eager = subject.backend.rasterize(*args, subject.size(case), *rest)
    assert_same(subject.draw(case), eager, subject)


def vmap_is_a_loop(subject: Subject) -> None:
    case = looks()
    want = _looped(subject, case)
    assert_same(subject.draw(case), want, subject)
    one, args = _one_world(subject, case)
    nested = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), args)
    frame = jax.jit(jax.vmap(jax.vmap(one)))(*nested)
    assert_same(jax.tree.map(lambda x: x.reshape(4, *x.shape[2:]), frame), want, subject)
    # The call's own worlds under a vmap, and arguments that are shared.
    frame = jax.jit(jax.vmap(one))(*nested)
    assert_same(jax.tree.map(lambda x: x.reshape(4, *x.shape[2:]), frame), want, subject)
    poses, look = jax.tree.map(lambda x: x[0], (args[0], args[2]))
    shared = jax.jit(jax.vmap(one, in_axes=(None, 0, None)))(poses, args[1], look)
    same = case._replace(poses=_stack([poses] * 4), look=np.zeros(4, np.int32))
    assert_same(shared, subject.draw(same), subject)


def scan_is_a_loop(subject: Subject) -> None:
    case = looks()
    one, args = _one_world(subject, case)
    frames = jax.jit(lambda xs: jax.lax.scan(lambda c, x: (c, one(*x)), 0, xs)[1])(args)
    assert_same(frames, _looped(subject, case), subject)


def worlds_in_two_axes(subject: Subject) -> None:
    case = looks()
    want = subject.draw(case)
    poses, cameras, look = jax.tree.map(
        lambda x: x.reshape(2, 2, *x.shape[1:]), (case.poses, case.cameras, case.look)
    )
    got = subject.draw(case._replace(poses=poses, cameras=cameras, look=look))
    assert_same(jax.tree.map(lambda x: x.reshape(4, *x.shape[2:]), got), want, subject)


def same_bits_again(subject: Subject) -> None:
    case = looks()
    first, second = subject.draw(case), subject.draw(case)
    assert all(jax.tree.leaves(jax.tree.map(jnp.array_equal, first, second)))


def moving_everything_changes_nothing(subject: Subject) -> None:
    """A rigid motion of all bodies and cameras; the harmonics turn with the bodies."""
    case = cloud(3)
    turn, shift = scenes.random_world(2, seed=5).xquat[1], np.array([0.4, -0.3, 0.2])
    rotation = quats_to_matrices(np.float64(turn))
    xpos = case.poses.xpos @ rotation.T + shift
    xquat = scenes.multiply_quats(turn, case.poses.xquat)
    back = np.eye(4)
    back[:3, :3], back[:3, 3] = rotation.T, -rotation.T @ shift
    moved = case._replace(
        poses=BodyPoses(np.float32(xpos), np.float32(xquat)),
        cameras=replace(case.cameras, viewmats=np.float32(case.cameras.viewmats @ back)),
    )
    # Both are rounded to float32, which moves a few pixels across the cutoff.
    loose = replace(subject, mean=max(subject.mean, 1e-5), max=max(subject.max, 5e-3))
    assert_same(subject.draw(moved), subject.draw(case), loose)


def gradients_are_the_references(subject: Subject) -> None:
    """Directional derivatives against central differences of the float64 reference."""
    case, weights = _weighted(subject)
    behind = _on_device((case.background, case.look))
    grad = _gradient(subject.name, case.config)(_on_device(case[:3]), weights, *behind)
    rng = np.random.default_rng(11)
    for path, leaf in jax.tree.leaves_with_path(case[:3]):
        if np.issubdtype(leaf.dtype, np.integer):
            continue
        direction = _direction(path, np.float64(leaf), rng)
        got = float((np.float64(_at(grad, path)) * direction).sum())
        want = _difference(case, weights, path, direction)
        assert got == pytest.approx(want, rel=2e-3, abs=2e-3), jax.tree_util.keystr(path)


def gradients_sum_over_worlds(subject: Subject) -> None:
    """What is shared gets the sum of the worlds' gradients; vmap of grad is a loop."""
    case, weights = _weighted(subject)
    args = (_on_device(case[:3]), weights, *_on_device((case.background, case.look)))
    gradient = _gradient(subject.name, case.config)
    shared, own, _ = gradient(*args)
    each = jax.vmap(gradient, in_axes=((None, 0, 0), 0, None, 0))
    parts = jax.jit(each)(*args)
    for name in ("means", "scales", "opacities", "sh"):
        total = np.asarray(getattr(parts[0], name)).sum(0)
        np.testing.assert_allclose(getattr(shared, name), total, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(own.xpos, parts[1].xpos, rtol=2e-3, atol=2e-3)


_EAGER: dict[str, Callable[[Subject], None]] = {
    "bytes_are_the_floats_rounded": bytes_are_the_floats_rounded,
    "worlds_in_two_axes": worlds_in_two_axes,
    "same_bits_again": same_bits_again,
    "moving_everything_changes_nothing": moving_everything_changes_nothing,
}
_TRACED: dict[str, Callable[[Subject], None]] = {
    "jit_is_eager": jit_is_eager,
    "vmap_is_a_loop": vmap_is_a_loop,
    "scan_is_a_loop": scan_is_a_loop,
}
_DIFFERENTIATED: dict[str, Callable[[Subject], None]] = {
    "gradients_are_the_references": gradients_are_the_references,
    "gradients_sum_over_worlds": gradients_sum_over_worlds,
}
BEHAVIOURS = _EAGER | _TRACED | _DIFFERENTIATED


# ---------------------------------------------------------------------------------------------


def _skip_unclaimed(subject: Subject, name: str) -> None:
    reason = subject.without.get(name) or subject.backend.unavailable()
    if reason:
        pytest.skip(f"{subject.name}: {reason}")
    if name in _TRACED and not subject.backend.TRACEABLE:
        pytest.skip(f"{subject.name} cannot be traced")
    if name in _DIFFERENTIATED and not subject.backend.DIFFERENTIABLE:
        pytest.skip(f"{subject.name} has no gradients")


@functools.cache
def _drawer(name: str, traceable: bool) -> Callable[..., Frame]:
    draw = load_backend(name).rasterize
    return jax.jit(draw, static_argnums=3) if traceable else draw


def _on_device(tree: Any) -> Any:
    return jax.tree.map(jnp.asarray, tree)


def _stack(trees: list) -> Any:
    return jax.tree.map(lambda *xs: np.stack(xs), *trees)


def _farthest(frame: Frame) -> float:
    depth = np.asarray(frame.depth)
    return max(1.0, float(depth.max())) if depth.size else 1.0


def _one_world(subject: Subject, case: Case) -> tuple[Callable[..., Frame], tuple]:
    """The call for one world, and all worlds' own arguments."""
    splats, background = _on_device((case.splats, case.background))
    size = subject.size(case)

    def one(poses: BodyPoses, cameras: CameraBatch, look: Any) -> Frame:
        return subject.backend.rasterize(splats, poses, cameras, size, background, look)

    return one, _on_device((case.poses, case.cameras, case.look))


def _looped(subject: Subject, case: Case) -> Frame:
    frames = []
    for i in range(len(case.look)):
        poses, cameras, look = jax.tree.map(
            lambda x, i=i: x[i], (case.poses, case.cameras, case.look)
        )
        frames.append(subject.draw(case._replace(poses=poses, cameras=cameras, look=look)))
    return _stack(frames)


def _small(case: Case) -> Case:
    """Few splats in few pixels, so that a central difference crosses no pixel's cutoff."""
    splats = jax.tree.map(lambda x: x[:25], case.splats)
    return case._replace(splats=replace(splats, scales=splats.scales + np.float32(0.02)))


def _weighted(subject: Subject) -> tuple[Case, Frame]:
    """A small case, and what the loss multiplies each number of its frame with."""
    case = _small(looks(2))
    rng = np.random.default_rng(7)
    shape = (*case.cameras.viewmats.shape[:-2], case.config.height, case.config.width)
    parts = (rng.normal(size=(*shape, 3)), rng.normal(size=shape), rng.normal(size=shape))
    return case._replace(config=subject.size(case)), Frame(*(np.float32(part) for part in parts))


@functools.cache
def _gradient(name: str, config: RasterConfig) -> Callable[..., tuple]:
    """Of the weighted sum of a frame, by splats, poses and cameras; one program for all tests."""

    def loss(args: tuple, weights: Frame, background: Background, look: Any) -> Any:
        frame = load_backend(name).rasterize(*args, config, background, look)
        return sum(jax.tree.leaves(jax.tree.map(lambda x, w: (x * w).sum(), frame, weights)))

    return jax.jit(jax.grad(loss, allow_int=True))


def _difference(case: Case, weights: Frame, path: Any, direction: np.ndarray) -> float:
    """Derivative of the reference's loss along a direction of one leaf."""
    step = 1e-7

    def loss(sign: float) -> float:
        args = jax.tree.map_with_path(
            lambda p, x: np.float64(x) + sign * step * direction if p == path else x, case[:3]
        )
        frame = reference.rasterize_float64(*args, case.config, case.background, case.look)
        return sum(jax.tree.leaves(jax.tree.map(lambda x, w: (x * w).sum(), frame, weights)))

    return (loss(1.0) - loss(-1.0)) / (2 * step)


def _at(tree: Any, path: Any) -> np.ndarray:
    return next(np.asarray(leaf) for p, leaf in jax.tree.leaves_with_path(tree) if p == path)


def _direction(path: Any, leaf: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random change of a leaf that leaves quaternions unit and cameras rigid.

    Only there are pictures defined: what a longer quaternion means is each backend's own affair.
    """
    name = jax.tree_util.keystr(path)
    change = rng.normal(size=leaf.shape)
    if "quat" in name:
        return change - (change * leaf).sum(-1, keepdims=True) * leaf
    if "viewmats" in name:
        spin = np.zeros_like(leaf)
        spin[..., :3, :3] = (change - change.swapaxes(-1, -2))[..., :3, :3]
        spin[..., :3, 3] = change[..., :3, 3]
        return spin @ leaf
    if "Ks" in name:
        return change * np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0]])
    return change
