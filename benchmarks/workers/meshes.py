"""Draws one camera of many worlds of franka/pick_cube with MuJoCo Warp: meshes, not splats.

Params: size [px], num_envs, seconds. The arms differ, nothing is stepped.
"""

import time
from typing import TYPE_CHECKING

from benchmarks.worker import Job, Params, rate, serve
from benchmarks.workers.platform import prepare

if TYPE_CHECKING:
    import mujoco

    from splat_render.types import BodyPoses

CAMERA = "front"


def start(params: Params) -> Job:
    """Put the scene's meshes on the device and draw it once."""
    prepare(mjx=True)
    import jax

    from benchmarks.workers.render import device_bytes
    from scenes.build import build_scene, warp_model
    from scenes.layouts import pick_cube
    from splat_render import mesh_renderer as mjwarp_backend

    reason = mjwarp_backend.unavailable()
    if reason is not None:
        raise RuntimeError(f"mjwarp cannot run here: {reason}")
    num, size = params["num_envs"], params["size"]
    model = warp_model(build_scene(pick_cube()).model)
    renderer = mjwarp_backend.build_mesh_renderer(
        model, [CAMERA], num_worlds=num, width=size, height=size
    )
    poses, draw = make_poses(model, num), jax.jit(renderer.render)
    begun = time.perf_counter()
    jax.block_until_ready(draw(poses))
    facts = {
        "compile_seconds": round(time.perf_counter() - begun, 2),
        "note": "meshes of franka/pick_cube",
        "device": jax.local_devices()[0].device_kind,
    }

    def call() -> None:
        jax.block_until_ready(draw(poses))

    call()
    return Job(lambda: rate(call, num, params["seconds"]), facts | device_bytes(num))


def make_poses(model: "mujoco.MjModel", num: int) -> "BodyPoses":
    """Return where all bodies are in worlds whose joints are a little off their first key frame."""
    import jax.numpy as jnp
    import mujoco
    import numpy as np

    from splat_render.types import BodyPoses

    rng, data = np.random.default_rng(0), mujoco.MjData(model)
    home = model.key_qpos[0] if model.nkey else model.qpos0
    xpos, xquat = np.zeros((num, model.nbody, 3)), np.zeros((num, model.nbody, 4))
    for world in range(num):
        data.qpos[:] = home + rng.uniform(-0.05, 0.05, model.nq)
        mujoco.mj_kinematics(model, data)
        xpos[world], xquat[world] = data.xpos, data.xquat
    return BodyPoses(jnp.asarray(xpos, jnp.float32), jnp.asarray(xquat, jnp.float32))


if __name__ == "__main__":
    serve(start)
