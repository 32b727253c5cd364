"""What thinning costs and gains on a synthetic phone scan, at 64 px on this machine.

    python tests/splat_render/assets/thinned_scan.py --splats 7000

Prints milliseconds a frame (the least of many rounds, mean over the scene's cameras, drawn as in
training) of a bare scene, of the whole scan and of the thinned one, and how like the pictures of
the two scans are. `--parts 5` cuts each splat of the scan into so many, as dense as a phone's.
"""

import argparse
import dataclasses
import sys
import time
import warnings

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from phone_scan import JOINTS, make_scan
from scipy.spatial.transform import Rotation

from scenes.build import build_scene
from scenes.layouts import pick_cube
from splat_render.assets import align
from splat_render.assets.bake import pose, scene_splats
from splat_render.assets.contribution import task_views
from splat_render.assets.thin_scan import PICTURE_SIZE, likeness, thin
from splat_render.backend import choose_backend
from splat_render.background import static_bodies
from splat_render.cameras import make_rig
from splat_render.scene_renderer import build_scene_renderer
from splat_render.types import BodyPoses, GaussianSet, RasterConfig

ROUNDS, WORLDS = 40, 16
FINER = 0.55  # deviation of a part over that of the whole


def cut(splats: GaussianSet, parts: int) -> GaussianSet:
    """Return each splat as several smaller ones of slightly different colours."""
    if parts == 1:
        return splats
    rng = np.random.default_rng(0)
    index = np.repeat(np.arange(len(splats.means)), parts)
    whole = jax.tree.map(lambda leaf: np.asarray(leaf)[index], splats)
    offset = whole.scales * np.sqrt(1 - FINER**2) * rng.normal(size=whole.scales.shape)
    turned = Rotation.from_quat(whole.quats, scalar_first=True).apply(offset)
    noise = 0.1 * rng.normal(size=(len(index), 1, 3))
    changed = dataclasses.replace(
        whole, means=whole.means + turned, scales=FINER * whole.scales, sh=whole.sh + noise
    )
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.int32 if leaf.dtype.kind == "i" else jnp.float32),
        changed,
    )


def milliseconds(splats: GaussianSet, model: mujoco.MjModel, data: mujoco.MjData) -> float:
    """Return how long a picture takes [ms], static splats before a cached background."""
    static = static_bodies(model.body_weldid, model.body_mocapid)
    config = RasterConfig(width=PICTURE_SIZE, height=PICTURE_SIZE)
    bodies = {model.body(b).name: b for b in range(model.nbody)}
    specs = pick_cube().cameras
    rig = make_rig(specs, bodies, width=PICTURE_SIZE, height=PICTURE_SIZE)
    renderer = build_scene_renderer(
        choose_backend("cpu"),
        config,
        splats,
        jax.tree.map(lambda x: x[None], rig),
        static=static,
        home=BodyPoses(jnp.asarray(data.xpos, jnp.float32), jnp.asarray(data.xquat, jnp.float32)),
    )
    views = task_views(model, data, size=PICTURE_SIZE, count=WORLDS)[:: model.ncam]
    poses = jax.tree.map(
        lambda *leaves: jnp.asarray(np.stack(leaves), jnp.float32), *(v.poses for v in views)
    )
    draw = jax.jit(lambda poses: renderer.render(poses, jnp.zeros(WORLDS, jnp.int32)).rgb)
    jax.block_until_ready(draw(poses))
    took = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        jax.block_until_ready(draw(poses))
        took.append(time.perf_counter() - begun)
    return 1e3 * min(took) / (WORLDS * len(specs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splats", type=int, default=7000)
    parser.add_argument("--parts", type=int, default=1)
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # of the background, which is the same for all three
    model = build_scene(pick_cube()).model
    data = pose(model, align.joints_to_qpos(model, JOINTS))
    made = make_scan()
    done = align.align_scan(made.splats, made.pairs, model, data, keep_unknown=True)
    whole = cut(done.splats, given.parts)
    begun = time.perf_counter()
    thinned = thin(whole, model, data, most=given.splats)
    seconds = time.perf_counter() - begun
    rows = {"bare": scene_splats(model, data.qpos), "whole scan": whole, "thinned": thinned}
    for name, splats in rows.items():
        cost = milliseconds(splats, model, data)
        sys.stdout.write(f"{name}: {len(splats.means)} splats, {cost:.2f} ms a frame\n")
    alike = likeness(thinned, whole, model, data)
    sys.stdout.write(f"thinned in {seconds:.0f} s; against the whole scan [dB]: {alike}\n")


if __name__ == "__main__":
    main()
