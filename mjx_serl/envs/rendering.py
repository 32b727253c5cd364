"""The renderer of an environment's cameras: the scene baked, shadows cast, cameras checked."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from mjx_serl.envs.appearance import jitter_rigs, tinted
from mjx_serl.envs.env import Env
from scenes.contract.errors import InputError
from scenes.contract.specs import CameraSpec
from splat_render.cameras import make_rig
from splat_render.types import BodyPoses, GaussianSet, RasterConfig

if TYPE_CHECKING:
    from mjx_serl.envs.observation import PixelConfig
    from splat_render.scene_renderer import SceneRenderer
    from splat_render.shadows import Shadows

SKY = (0.62, 0.72, 0.82)  # behind the scene
_TABLE = "table"  # geom that shadows fall on
_LEVEL = (mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtGeom.mjGEOM_BOX)


def build_renderer(config: "PixelConfig", env: Env) -> "SceneRenderer":
    """Return the renderer: the scene baked, its cameras mounted, the backgrounds drawn."""
    # Imported here: without cameras they would only delay the start.
    from splat_render.assets.bake import pose
    from splat_render.backend import choose_backend
    from splat_render.background import static_bodies
    from splat_render.scene_renderer import build_scene_renderer

    scene, model = env.scene, env.scene.model
    # Before anything is baked, so that a wrong name is told at once.
    chosen = choose_backend(config.backend)
    specs = config.specs(scene.spec)
    home = pose(model)
    _check_in_the_open(model, home, specs)
    bodies = {model.body(b).name: b for b in range(model.nbody)}
    rig = make_rig(specs, bodies, width=config.size, height=config.size)
    # The same numbers whatever traces: what is prepared here is concrete.
    with jax.ensure_compile_time_eval():
        baked = config.splats_of(model, cameras=specs)
        static = static_bodies(model.body_weldid, model.body_mocapid)
        splats, tints = tinted(config.look, baked, static, seed=config.seed)
        return build_scene_renderer(
            chosen,
            RasterConfig(width=config.size, height=config.size, color=SKY, far=config.depth),
            splats,
            jitter_rigs(config.look, rig, seed=config.seed),
            static=static,
            home=BodyPoses(*(jnp.asarray(x, jnp.float32) for x in (home.xpos, home.xquat))),
            cached=config.cached,
            shadows=_shadows(model, home, baked) if config.shadows else None,
            tints=tints,
        )


def _shadows(model: mujoco.MjModel, home: mujoco.MjData, splats: GaussianSet) -> "Shadows":
    """Return what falls on the geom "table"; InputError where the scene has none that is level."""
    from splat_render.shadows import cast_shadows, casting_bodies

    names = [model.geom(geom).name for geom in range(model.ngeom)]
    if _TABLE not in names:
        raise InputError(
            f"Shadows fall on a geom '{_TABLE}', which this scene lacks: leave them off"
        )
    table = names.index(_TABLE)
    size, turn = model.geom_size[table], home.geom_xmat[table].reshape(3, 3)
    kind = mujoco.mjtGeom(model.geom_type[table])
    still = model.body_weldid[model.geom_bodyid[table]] == 0
    if not (still and kind in _LEVEL and np.allclose(np.abs(turn), np.eye(3), atol=1e-6)):
        raise InputError(
            f"Shadows fall on a geom '{_TABLE}' that stands still, a plane or a box along the "
            "world's axes; this scene's is not: leave them off"
        )
    top = size[2] if kind == mujoco.mjtGeom.mjGEOM_BOX else 0.0
    center = home.geom_xpos[table] + [0.0, 0.0, top]
    half = np.array([*np.where(size[:2] > 0, size[:2], np.inf), 0.0])
    bodies = casting_bodies(model.body_parentid, model.body_weldid)
    return cast_shadows(splats, bodies, center - half, center + half)


def _check_in_the_open(
    model: mujoco.MjModel, home: mujoco.MjData, cameras: Sequence[CameraSpec]
) -> None:
    """Raise ValueError where a camera is inside something at home: it would see its back."""
    from splat_render.assets.surface import solid_around

    for camera in cameras:
        body = 0 if camera.body is None else model.body(camera.body).id
        position = home.xpos[body] + home.xmat[body].reshape(3, 3) @ camera.pos
        solid = solid_around(model, home, position)
        if solid is not None:
            raise InputError(
                f"Camera '{camera.name}' at {np.round(position, 3).tolist()} m is inside {solid}; "
                "move its pos into the open"
            )
