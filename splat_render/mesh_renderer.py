"""MuJoCo Warp's ray caster: meshes and primitives instead of splats, on many worlds at once.

A second opinion on what a camera sees, with MuJoCo's own colours, textures and lights. It draws an
MjModel, not a `GaussianSet`, so it is no `Rasterize` backend; poses and pictures are the same.
Needs the extra `warp`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
from jaxtyping import Array, Float, UInt32
from mujoco import mjx

from scenes.contract.extras import is_installed, not_installed
from scenes.contract.rotations import quats_to_matrices
from splat_render.backends.external import rotate
from splat_render.types import BodyPoses, Frame


def unavailable() -> str | None:
    """Return why it cannot run here, in one line; None where it can."""
    return None if is_installed("warp") else not_installed("warp", "warp")


@dataclass(frozen=True, eq=False)
class MeshRenderer:
    """Cameras of a compiled model over a fixed number of worlds; made by `build_mesh_renderer`.

    `render` can be jitted; its batch is fixed, so it cannot be vmapped.

    Attributes:
        model: compiled.
        cameras: ids of the model's cameras.
        num_worlds: drawn at once.
        width: of the pictures [px].
        height: of the pictures [px].
        on_device: the model as MuJoCo Warp has it.
        context: of its renderer.
    """

    model: mujoco.MjModel
    cameras: tuple[int, ...]
    num_worlds: int
    width: int
    height: int
    on_device: Any  # mjx.Model
    context: Any  # mjx's RenderContext: owns Warp's buffers, must outlive every call

    def render(self, poses: BodyPoses) -> Frame:
        """Return uint8 rgb, depth [m] along z (0 where nothing is) and alpha (0 or 1).

        Args:
            poses: [num_worlds, B, ...] of all bodies of the model.
        """
        if poses.xpos.shape[:-1] != (self.num_worlds, self.model.nbody):
            raise ValueError(
                f"MeshRenderer: poses of {poses.xpos.shape[:-1]} worlds and bodies, "
                f"built for {(self.num_worlds, self.model.nbody)}"
            )
        handle = self.context.pytree()
        data = jax.vmap(self._data)(poses)
        data = mjx.refit_bvh(self.on_device, data, handle)
        rgb, depth, _ = mjx.render(self.on_device, data, handle)
        shape = (self.num_worlds, len(self.cameras), self.height, self.width)
        depth = depth.reshape(shape)
        return Frame(_unpack(rgb).reshape(*shape, 3), depth, (depth > 0).astype(jnp.float32))

    def _data(self, poses: BodyPoses) -> mjx.Data:
        """Return one world's `mjx.Data` with all that a picture depends on."""
        m = self.model
        geom = _place(poses, m.geom_bodyid, m.geom_pos, m.geom_quat)
        camera = _place(poses, m.cam_bodyid, m.cam_pos, m.cam_quat)
        lights = poses.xquat[m.light_bodyid]
        data: Any = mjx.make_data(m, impl="warp", naconmax=1, njmax=1)
        return data.tree_replace(
            {
                "geom_xpos": geom[0],
                "geom_xmat": geom[1],
                "cam_xpos": camera[0],
                "cam_xmat": camera[1],
                "_impl.light_xpos": rotate(lights, m.light_pos) + poses.xpos[m.light_bodyid],
                "_impl.light_xdir": rotate(lights, m.light_dir),
            }
        )


def build_mesh_renderer(
    model: mujoco.MjModel,
    cameras: Sequence[str],
    *,
    num_worlds: int,
    width: int,
    height: int,
    samples_per_pixel: int = 1,
) -> MeshRenderer:
    """Return a renderer with a model's geoms (groups 0 to 2), textures and lights on the device.

    Args:
        model: a scene for MJX-Warp, see `scenes.build.warp_model`.
        cameras: names; each is fixed to its body (mode "fixed").
        num_worlds: Warp's buffers have this size.
        width, height: of the pictures [px].
        samples_per_pixel: along each axis; 2 costs four times the rays and smooths edges.

    Raises:
        KeyError: no camera of that name.
        ValueError: a camera or light that follows something.
    """
    chosen = tuple(int(model.camera(name).id) for name in cameras)
    follows = [name for name, i in zip(cameras, chosen, strict=True) if model.cam_mode[i]]
    if follows or model.light_mode.any():
        raise ValueError(f"MeshRenderer: only fixed cameras and lights, got tracking {follows}")
    context = mjx.create_render_context(
        model,
        nworld=num_worlds,
        # Warp would take a GPU that JAX was told to leave alone.
        devices=["cpu"] if jax.default_backend() == "cpu" else None,
        cam_res=(width, height),
        render_rgb=True,
        render_depth=True,
        cam_active=list(chosen),
        samples_per_pixel=samples_per_pixel,
    )
    on_device = mjx.put_model(model, impl="warp")
    return MeshRenderer(model, chosen, num_worlds, width, height, on_device, context)


def _place(
    poses: BodyPoses, body: Any, pos: Any, quat: Any
) -> tuple[Float[Array, "K 3"], Float[Array, "K 3 3"]]:
    """Return world positions and rotation matrices of things mounted on bodies."""
    where, turn = poses.xpos[body], poses.xquat[body]
    axes = jnp.matmul(quats_to_matrices(turn), quats_to_matrices(quat), precision="highest")
    return rotate(turn, jnp.asarray(pos)) + where, axes


def _unpack(packed: UInt32[Array, "N P"]) -> Array:
    """Return bytes r, g, b of 0xAARRGGBB."""
    return jnp.stack([packed >> 16, packed >> 8, packed], axis=-1).astype(jnp.uint8)
