"""The pictures of one scene's cameras: what never moves is drawn once, the rest in every step."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from splat_render.backend import Chosen
from splat_render.background import (
    background_psnr,
    build_background,
    poor_background,
    split_static,
)
from splat_render.cameras import CameraRig, place
from splat_render.shadows import Shadows
from splat_render.tints import Tints
from splat_render.types import Background, BodyPoses, CameraBatch, Frame, GaussianSet, RasterConfig


@dataclass(frozen=True, eq=False)
class View:
    """Cameras that are drawn by one call.

    Attributes:
        splats: that they see.
        rig: mountings [V, C, ...].
        background: None where all splats are drawn in every step.
        cameras: their places among all cameras.
    """

    splats: GaussianSet
    rig: CameraRig
    background: Background | None
    cameras: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class SceneRenderer:
    """Draws all cameras of many worlds; `render` can be jitted where the backend is traceable.

    Attributes:
        chosen: backend.
        config: size and colours of the pictures.
        views: that together hold all cameras.
        shadows: of what moves, whose spots are the last of each view's splats; None casts none.
        tints: colours of each variant; None is one look.
    """

    chosen: Chosen
    config: RasterConfig
    views: tuple[View, ...]
    shadows: Shadows | None = None
    tints: Tints | None = None

    def render(self, poses: BodyPoses, variant: Int[Array, " N"]) -> Frame:
        """Return the pictures [N, C, ...] of worlds at `poses` [N, B, ...].

        Args:
            poses: of all bodies.
            variant: which of the V mountings and backgrounds each world has.
        """
        # By static slices: an index array would copy every finished picture once more.
        pictures = {}
        for view in self.views:
            frame = self._draw(view, poses, variant)
            for i, camera in enumerate(view.cameras):
                pictures[camera] = jax.tree.map(lambda x, i=i: x[:, i], frame)
        in_order = [pictures[camera] for camera in sorted(pictures)]
        return jax.tree.map(lambda *parts: jnp.stack(parts, axis=1), *in_order)

    def _draw(self, view: View, poses: BodyPoses, variant: Int[Array, " N"]) -> Frame:
        cameras = mounted(view.rig, poses, variant)
        if self.tints is not None:
            poses = self.tints.variants(poses, variant)
        rasterize = self.chosen.backend.rasterize
        if self.shadows is None:
            return rasterize(view.splats, poses, cameras, self.config, view.background, variant)
        # A shadow is where it is for one camera only, so each camera is a world of its own.
        count = len(view.cameras)
        poses = self.shadows.below(poses, cameras)
        apart = jax.tree.map(lambda x: x[:, :, None], cameras)
        behind = jax.tree.map(lambda x: x.reshape(-1, 1, *x.shape[2:]), view.background)
        look = variant[:, None] * count + jnp.arange(count)
        frame = rasterize(view.splats, poses, apart, self.config, behind, look)
        return jax.tree.map(lambda x: x[:, :, 0], frame)


def build_scene_renderer(
    chosen: Chosen,
    config: RasterConfig,
    splats: GaussianSet,
    rig: CameraRig,
    *,
    static: Bool[np.ndarray, " B"],
    home: BodyPoses,
    cached: bool = True,
    shadows: Shadows | None = None,
    tints: Tints | None = None,
) -> SceneRenderer:
    """Return a renderer of the cameras of a scene, backgrounds of the fixed ones included.

    Args:
        chosen: the backend.
        config: of all pictures.
        splats: of the scene.
        rig: camera mountings [V, C, ...].
        static: which bodies never move, see `background.static_bodies`.
        home: poses of one world [B, ...], of which only the static bodies' matter.
        cached: draw static splats once for fixed cameras; false draws everything every time,
            for scenes whose thin moving parts lie on static surfaces.
        shadows: of what moves on the table, see `shadows.cast_shadows`; None draws none.
        tints: colours of each variant, with their `splats`, see `tints.tint`.
    """
    homes = _homes(home, tints, rig.body_id.shape[0])
    if tints is not None:
        static = tints.of_bodies(static)
    fixed = [c for c in range(rig.body_id.shape[1]) if cached and bool(static[rig.body_id[0, c]])]
    moving = [c for c in range(rig.body_id.shape[1]) if c not in fixed]
    views = []
    if fixed:
        mounts = _pick(rig, fixed)
        still, dynamic = split_static(splats, static)
        background = _backgrounds(still, mounts, config, homes)
        _warn_if_poor(chosen, splats, static, background, homes, mounts, config)
        views.append(View(dynamic, mounts, background, tuple(fixed)))
    if moving:
        views.append(View(splats, _pick(rig, moving), None, tuple(moving)))
    if shadows is not None:
        bodies = homes.xpos.shape[-2]
        views = [replace(view, splats=shadows.added_to(view.splats, bodies)) for view in views]
    return SceneRenderer(chosen, config, tuple(views), shadows, tints)


def mounted(rig: CameraRig, poses: BodyPoses, variant: Int[Array, " N"]) -> CameraBatch:
    """Return the cameras [N, C, ...] of worlds whose mounting is that of their variant."""
    return jax.vmap(place)(jax.tree.map(lambda x: x[variant], rig), poses)


def _homes(home: BodyPoses, tints: Tints | None, variants: int) -> BodyPoses:
    """Return where everything is at home, once per variant [V, B, ...]."""
    every = jax.tree.map(lambda x: jnp.broadcast_to(x, (variants, *x.shape)), home)
    return every if tints is None else tints.variants(every, jnp.arange(variants))


def _backgrounds(
    still: GaussianSet, rig: CameraRig, config: RasterConfig, homes: BodyPoses
) -> Background:
    """Return one background per variant: its colours seen from its mounting."""
    parts = []
    for v in range(rig.body_id.shape[0]):
        mounts, home = jax.tree.map(lambda x, v=v: x[v], (rig, homes))
        parts.append(build_background(still, place(mounts, home), config, home))
    return jax.tree.map(lambda *xs: jnp.stack(xs), *parts)


def _warn_if_poor(
    chosen: Chosen,
    splats: GaussianSet,
    static: Bool[np.ndarray, " B"],
    background: Background,
    homes: BodyPoses,
    rig: CameraRig,
    config: RasterConfig,
) -> None:
    """Compare cached and full pictures of the first look at home."""
    mounts, home = jax.tree.map(lambda x: x[0], (rig, homes))
    quality = background_psnr(
        splats,
        static,
        background,
        home,
        place(mounts, home),
        config,
        rasterize=chosen.backend.rasterize,
    )
    problem = poor_background(quality)
    if problem is not None:
        warnings.warn(problem, stacklevel=2)


def _pick(rig: CameraRig, cameras: Sequence[int]) -> CameraRig:
    return jax.tree.map(lambda x: x[:, jnp.asarray(cameras)], rig)
