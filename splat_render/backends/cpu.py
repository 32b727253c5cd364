"""The fast backend on a CPU: one FFI call draws the cameras of all worlds.

Forward is C++ (`splat_render.backends.native`). Backward is the vjp of
`splat_render.backends.xla`, which draws the same picture, with the blending's gradient in C++.
Splats and backgrounds are handed over once, however many worlds are vmapped.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from scenes.contract.errors import InputError
from scenes.native_build import NativeBuildError
from splat_render.backends import native, xla
from splat_render.projection import Projected
from splat_render.types import (
    Background,
    BodyPoses,
    CameraBatch,
    Frame,
    GaussianSet,
    RasterConfig,
    sh_degree,
)

TRACEABLE = True
DIFFERENTIABLE = True


class _Scene(NamedTuple):
    """What all worlds share.

    Attributes:
        splats: of the scene.
        background: V = 0 looks mean that there is none.
    """

    splats: GaussianSet
    background: Background


class _Worlds(NamedTuple):
    """What each of N worlds has of its own.

    Attributes:
        poses: of the bodies.
        cameras: in the world.
        look: row of the background.
    """

    poses: BodyPoses
    cameras: CameraBatch
    look: Int[Array, " N"]


_Core = Callable[[_Scene, _Worlds], Frame]


def unavailable() -> str | None:
    """Return why it cannot run here: another device than the CPU, or no C++ compiler."""
    if jax.default_backend() != "cpu":
        return f"JAX computes on {jax.default_backend()} here; set JAX_PLATFORMS=cpu"
    try:
        native.load()
    except NativeBuildError as error:
        return str(error)
    return None


def rasterize(
    splats: GaussianSet,
    poses: BodyPoses,
    cameras: CameraBatch,
    config: RasterConfig,
    background: Background | None = None,
    look: Int[Array, "*n"] | None = None,
) -> Frame:
    """Return the pictures of C cameras in each of worlds [*n]; see `renderer.Rasterize`.

    A splat whose `body_id` names no body draws nothing. Raises ValueError or TypeError, in one
    line, for shapes or types that do not fit, and NativeBuildError without a C++ compiler.
    """
    native.load()
    splats, poses, cameras = jax.tree.map(_as_array, (splats, poses, cameras))
    background = _no_background(cameras, config) if background is None else background
    look = jnp.zeros(poses.xpos.shape[:-2], jnp.int32) if look is None else look
    if poses.opacity is None:
        poses = poses.replace(opacity=jnp.ones(poses.xpos.shape[:-1]))
    if poses.gain is None:
        poses = poses.replace(gain=jnp.ones_like(poses.xpos))
    scene = _Scene(splats, jax.tree.map(_as_array, background))
    worlds = _Worlds(poses, cameras, _as_array(look))
    _check(scene, worlds, config)
    return _draw(config, scene, worlds)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _draw(config: RasterConfig, scene: _Scene, worlds: _Worlds) -> Frame:
    lead = worlds.look.shape
    frame = _core(config)(scene, _reshape_lead(worlds, len(lead), (math.prod(lead),)))
    return _reshape_lead(frame, 1, lead)


def _draw_forward(
    config: RasterConfig, scene: _Scene, worlds: _Worlds
) -> tuple[Frame, tuple[_Scene, _Worlds]]:
    return _draw(config, scene, worlds), (scene, worlds)


def _draw_backward(
    config: RasterConfig, saved: tuple[_Scene, _Worlds], cotangent: Frame
) -> tuple[_Scene, _Worlds]:
    def same(scene: _Scene, worlds: _Worlds) -> Frame:
        background = scene.background if len(scene.background.rgb) else None
        return xla.draw_worlds(
            cast(xla.Blend, _blend),
            scene.splats,
            worlds.poses,
            worlds.cameras,
            config,
            background,
            worlds.look,
        )

    return jax.vjp(same, *saved)[1](cotangent)


_draw.defvjp(_draw_forward, _draw_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _blend(seen: Projected, limit: Float[Array, "H W"], config: RasterConfig) -> xla.Canvas:
    """Blend one picture; what is drawn here serves nobody but the gradient of a background."""
    return xla.blend(seen, limit, config)


def _blend_forward(
    seen: Projected, limit: Float[Array, "H W"], config: RasterConfig
) -> tuple[xla.Canvas, tuple[Projected, Float[Array, "H W"]]]:
    return _blend(seen, limit, config), (seen, limit)


def _blend_backward(
    config: RasterConfig, saved: tuple[Projected, Float[Array, "H W"]], cotangent: xla.Canvas
) -> tuple[Projected, Float[Array, "H W"]]:
    seen, limit = saved
    columns = (seen.means2d, seen.conics, seen.opacities, seen.depths, seen.colors)
    shapes = [jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in columns]
    call = jax.ffi.ffi_call(native.GRADIENT_TARGET, shapes, vmap_method="broadcast_all")
    wanted = (jnp.moveaxis(cotangent.rgb, 0, -1), cotangent.depth, cotangent.light)
    means2d, conics, opacities, depths, colors = call(
        *columns, limit, *wanted, numbers=_numbers(config)
    )
    grads = Projected(
        means2d=means2d, conics=conics, opacities=opacities, depths=depths, colors=colors
    )
    return grads, jnp.zeros_like(limit)


_blend.defvjp(_blend_forward, _blend_backward)


@functools.cache
def _core(config: RasterConfig) -> _Core:
    """Return the FFI call for N worlds, whose vmap is the same call for more worlds."""
    core = jax.custom_batching.custom_vmap(functools.partial(_call, config))

    @core.def_vmap
    def more_worlds(
        size: int, batched: list[Any], scene: _Scene, worlds: _Worlds
    ) -> tuple[Frame, Frame]:
        scene_batched, worlds_batched = batched
        if any(jax.tree.leaves(scene_batched)):
            frame = _one_scene_at_a_time(core, size, batched, (scene, worlds))
        else:
            worlds = jax.tree.map(
                lambda x, yes: x if yes else jnp.broadcast_to(x, (size, *x.shape)),
                worlds,
                worlds_batched,
            )
            lead = worlds.look.shape
            frame = core(scene, _reshape_lead(worlds, 2, (math.prod(lead),)))
            frame = _reshape_lead(frame, 1, lead)
        return frame, jax.tree.map(lambda _: True, frame)

    return core


def _one_scene_at_a_time(
    core: _Core, size: int, batched: list[Any], args: tuple[_Scene, _Worlds]
) -> Frame:
    """Return a vmap over splats or backgrounds: a loop, for one call draws one set of splats."""

    def one(index: Int[Array, ""]) -> Frame:
        return core(*jax.tree.map(lambda x, yes: x[index] if yes else x, args, tuple(batched)))

    return jax.lax.map(one, jnp.arange(size))


def _call(config: RasterConfig, scene: _Scene, worlds: _Worlds) -> Frame:
    splats, background = scene
    lead = worlds.cameras.viewmats.shape[:2]
    size = (*lead, config.height, config.width)
    results = (
        jax.ShapeDtypeStruct((*size, 3), jnp.dtype(config.rgb_dtype)),
        jax.ShapeDtypeStruct(size, jnp.float32),
        jax.ShapeDtypeStruct(size, jnp.float32),
    )
    rgb, depth, alpha = jax.ffi.ffi_call(native.TARGET, results)(
        *(splats.means, splats.quats, splats.scales, splats.opacities, splats.sh),
        *(splats.body_id, worlds.poses.xpos, worlds.poses.xquat),
        *(worlds.poses.opacity, worlds.poses.gain),
        *(worlds.cameras.viewmats, worlds.cameras.Ks),
        *(background.rgb, background.depth, worlds.look),
        antialiased=config.antialiased,
        numbers=_numbers(config),
    )
    return Frame(rgb=rgb, depth=depth, alpha=alpha)


def _numbers(config: RasterConfig) -> Float[np.ndarray, " 9"]:
    """In the order in which the C++ reads them."""
    limits = (config.alpha_max, config.alpha_min, config.transmittance_min)
    return np.array([*limits, config.blur, config.near, *config.color, config.far], np.float32)


def _as_array(x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    x = jnp.asarray(x)
    return x.astype(jnp.float32 if jnp.issubdtype(x.dtype, jnp.floating) else jnp.int32)


def _no_background(cameras: CameraBatch, config: RasterConfig) -> Background:
    size = (0, *cameras.viewmats.shape[-3:-2], config.height, config.width)
    return Background(rgb=jnp.zeros((*size, 3)), depth=jnp.zeros(size))


def _reshape_lead(tree: Any, old: int, new: tuple[int, ...]) -> Any:
    return jax.tree.map(lambda x: x.reshape(*new, *x.shape[old:]), tree)


def _check(scene: _Scene, worlds: _Worlds, config: RasterConfig) -> None:
    """Raise ValueError or TypeError unless every shape and type is what the C++ reads."""
    for name, (array, shape) in _expected(scene, worlds, config).items():
        if array.shape != shape:
            raise InputError(f"{name} has shape {array.shape}, expected {shape}")
        kind = jnp.integer if name in ("body_id", "look") else jnp.floating
        if not jnp.issubdtype(array.dtype, kind):
            raise TypeError(f"{name} has dtype {array.dtype}, expected {kind.__name__}")
    sh_degree(scene.splats.sh.shape[1])


def _expected(
    scene: _Scene, worlds: _Worlds, config: RasterConfig
) -> dict[str, tuple[Array, tuple[int, ...]]]:
    """Return arrays and the shapes they must have, by name."""
    poses = worlds.poses
    assert poses.opacity is not None and poses.gain is not None  # see `rasterize`
    splats, background = scene
    num, lead = splats.means.shape[:1], poses.xpos.shape[:-2]
    coefficients, bodies = splats.sh.shape[1:2], poses.xpos.shape[-2:-1]
    cams = worlds.cameras.viewmats.shape[-3:-2]
    picture = (*background.rgb.shape[:1], *cams, config.height, config.width)
    return {
        "means": (splats.means, (*num, 3)),
        "quats": (splats.quats, (*num, 4)),
        "scales": (splats.scales, (*num, 3)),
        "opacities": (splats.opacities, num),
        "sh": (splats.sh, (*num, *coefficients, 3)),
        "body_id": (splats.body_id, num),
        "xpos": (poses.xpos, (*lead, *bodies, 3)),
        "xquat": (poses.xquat, (*lead, *bodies, 4)),
        "opacity": (poses.opacity, (*lead, *bodies)),
        "gain": (poses.gain, (*lead, *bodies, 3)),
        "viewmats": (worlds.cameras.viewmats, (*lead, *cams, 4, 4)),
        "Ks": (worlds.cameras.Ks, (*lead, *cams, 3, 3)),
        "background.rgb": (background.rgb, (*picture, 3)),
        "background.depth": (background.depth, picture),
        "look": (worlds.look, lead),
    }
