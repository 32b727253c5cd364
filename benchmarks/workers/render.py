"""Draws one camera of many worlds with one backend of `splat_render`.

Params: backend, mode ("full" every splat, "cached" only those that move, before a cached
background), splats, degree, size [px], num_envs, seconds, emulate (splax on a CPU). Also runs in
splax's own virtual environment, so it imports nothing that is not there.
"""

import sys
import time
from typing import TYPE_CHECKING, Any

from benchmarks.worker import Job, Params, rate, serve
from benchmarks.workers.platform import prepare

if TYPE_CHECKING:
    from splat_render.types import BodyPoses, CameraBatch, GaussianSet


def start(params: Params) -> Job:
    """Put the scene on the device and draw it once."""
    prepare()
    import jax

    from splat_render.backend import choose_backend

    if params["backend"] == "splax" and params.get("emulate"):
        from splat_render.backends import splax as splax_backend

        splax_backend.enable_cpu()
    num = params["num_envs"]
    backend = choose_backend(params["backend"]).backend
    draw, arrays = build(params, backend)
    if backend.TRACEABLE:
        draw = jax.jit(draw)
    begun = time.perf_counter()
    jax.block_until_ready(draw(*arrays))
    facts = {
        "compile_seconds": round(time.perf_counter() - begun, 2),
        "splats_drawn": len(arrays[0].means),
        "device": jax.local_devices()[0].device_kind,
    }

    def call() -> None:
        jax.block_until_ready(draw(*arrays))

    call()
    return Job(lambda: rate(call, num, params["seconds"]), facts | device_bytes(num))


def build(params: Params, backend: Any) -> tuple[Any, tuple]:
    """Return the function to time and what it is called with."""
    import jax
    import numpy as np

    from splat_render.background import build_background, split_static
    from splat_render.types import CameraBatch, RasterConfig

    size = params["size"]
    config = RasterConfig(width=size, height=size)
    splats, poses, cameras = scene(params)
    if params["mode"] == "full":
        return lambda s, p, c: backend.rasterize(s, p, c, config), (splats, poses, cameras)
    still, moving = split_static(splats, np.arange(poses.xpos.shape[1]) == 0)
    view, standing = cameras.viewmats[:1], jax.tree.map(lambda x: x[0], poses)
    behind = build_background(still, CameraBatch(view, cameras.Ks[:1]), config, standing)
    return (
        lambda s, p, c, b: backend.rasterize(s, p, c, config, b),
        (moving, poses, cameras, behind),
    )


def scene(params: Params) -> "tuple[GaussianSet, BodyPoses, CameraBatch]":
    """Return splats, poses [N, B], cameras [N, 1]."""
    import jax
    import jax.numpy as jnp

    from benchmarks.workers.splats import make_camera, make_poses, make_splats
    from splat_render.types import BodyPoses, CameraBatch, GaussianSet

    num = params["num_envs"]
    made = make_splats(params["splats"], params.get("degree", 0)), make_poses(num)
    splats, poses = jax.tree.map(jnp.asarray, made)
    view, K = make_camera(params["size"])
    cameras = CameraBatch(
        jnp.broadcast_to(view, (num, 1, 4, 4)), jnp.broadcast_to(K, (num, 1, 3, 3))
    )
    return GaussianSet(*splats), BodyPoses(*poses), cameras


def device_bytes(num: int) -> Params:
    """Return the most device memory that each library has held, per world; nothing on a CPU."""
    import jax

    stats = jax.local_devices()[0].memory_stats()
    if not stats:
        return {}
    held = stats["peak_bytes_in_use"]
    if "warp" in sys.modules:
        from benchmarks.workers.env import warp_bytes

        held += warp_bytes()
    if "torch" in sys.modules:
        held += sys.modules["torch"].cuda.max_memory_allocated()
    return {"bytes_per_world": held // num}


if __name__ == "__main__":
    serve(start)
