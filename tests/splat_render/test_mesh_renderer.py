import importlib.util

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from splat_render.types import BodyPoses

if importlib.util.find_spec("warp") is None:
    pytest.skip("warp-lang is not installed", allow_module_level=True)

from splat_render import mesh_renderer as mjwarp_backend
from splat_render.mesh_renderer import MeshRenderer, build_mesh_renderer

SIZE = 48
XML = """
<mujoco>
  <worldbody>
    <light pos="0 0 3" dir="0 0 -1"/>
    <geom type="plane" size="2 2 .1" rgba=".2 .3 .8 1"/>
    <camera name="top" pos="0 0 1.5" fovy="50"/>
    <body name="ball" pos="0 0 .5">
      <freejoint/>
      <geom type="sphere" size=".2" rgba=".9 .1 .1 1"/>
      <geom type="box" size=".1 .04 .03" pos=".25 .1 0" quat=".9 0 0 .436" rgba=".1 .9 .1 1"/>
      <camera name="rider" pos="0 -1 .3" xyaxes="1 0 0 0 .3 1" fovy="60"/>
    </body>
  </worldbody>
</mujoco>
"""
QPOS = (
    (0.0, 0.0, 0.5, 1.0, 0.0, 0.0, 0.0),
    (0.2, -0.1, 0.6, 0.8, 0.1, 0.2, 0.5477),
)


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(XML)


@pytest.fixture(scope="module")
def renderer(model: mujoco.MjModel) -> MeshRenderer:
    return build_mesh_renderer(model, ["top", "rider"], num_worlds=2, width=SIZE, height=SIZE)


@pytest.fixture(scope="module")
def worlds(model: mujoco.MjModel) -> list[mujoco.MjData]:
    made = []
    for qpos in QPOS:
        data = mujoco.MjData(model)
        data.qpos[:] = qpos
        mujoco.mj_forward(model, data)
        made.append(data)
    return made


def poses_of(worlds: list[mujoco.MjData]) -> BodyPoses:
    return BodyPoses(
        jnp.asarray(np.float32([data.xpos for data in worlds])),
        jnp.asarray(np.float32([data.xquat for data in worlds])),
    )


def cast(model: mujoco.MjModel, data: mujoco.MjData, camera: int) -> tuple[np.ndarray, np.ndarray]:
    """What C MuJoCo's rays hit: depth along z [m] (0 for nothing) and geom, at pixel centres."""
    half = np.tan(np.radians(model.cam_fovy[camera]) / 2)
    at = ((np.arange(SIZE) + 0.5) / SIZE * 2 - 1) * half
    depth, geoms = np.zeros((SIZE, SIZE)), np.full((SIZE, SIZE), -1)
    for i, j in np.ndindex(SIZE, SIZE):
        ray = np.array([at[j], -at[i], -1.0])
        length = np.linalg.norm(ray)
        turned = data.cam_xmat[camera].reshape(3, 3) @ (ray / length)
        hit = np.full(1, -1, np.int32)
        distance = mujoco.mj_ray(
            model, data, data.cam_xpos[camera], turned, None, 1, -1, hit, np.zeros(3)
        )
        geoms[i, j] = hit[0]
        depth[i, j] = distance / length if hit[0] >= 0 else 0.0
    return depth, geoms


def test_every_pixel_is_what_mujocos_own_rays_hit(
    model: mujoco.MjModel, renderer: MeshRenderer, worlds: list[mujoco.MjData]
):
    frame = jax.jit(renderer.render)(poses_of(worlds))
    assert frame.rgb.shape == (2, 2, SIZE, SIZE, 3)
    assert frame.rgb.dtype == jnp.uint8
    for world, camera in np.ndindex(2, 2):
        depth, geoms = cast(model, worlds[world], camera)
        got = np.asarray(frame.depth[world, camera])
        rgb = np.asarray(frame.rgb[world, camera], int)
        close = np.abs(got - depth) < 1e-3
        # Rays along an edge may go either way.
        assert close.mean() > 0.995, (world, camera)
        assert ((np.asarray(frame.alpha[world, camera]) > 0) == (geoms >= 0))[close].all()
        for geom, channel in enumerate((2, 0, 1)):
            seen = (geoms == geom) & close
            assert seen.sum() > 10, (world, camera, geom)
            assert (rgb[seen].argmax(-1) == channel).mean() > 0.95, (world, camera, geom)
    assert not np.array_equal(frame.rgb[0], frame.rgb[1])


def test_wrong_requests_say_what_is_allowed(model: mujoco.MjModel, renderer: MeshRenderer):
    assert mjwarp_backend.unavailable() is None
    with pytest.raises(ValueError, match=r"\(3, 2\) worlds and bodies, built for \(2, 2\)"):
        renderer.render(BodyPoses(jnp.zeros((3, 2, 3)), jnp.zeros((3, 2, 4))))
    with pytest.raises(KeyError, match="nowhere"):
        build_mesh_renderer(model, ["nowhere"], num_worlds=1, width=8, height=8)
    tracking = mujoco.MjModel.from_xml_string(XML.replace('fovy="60"', 'mode="track" fovy="60"'))
    with pytest.raises(ValueError, match="only fixed cameras and lights"):
        build_mesh_renderer(tracking, ["rider"], num_worlds=1, width=8, height=8)
