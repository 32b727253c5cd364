import jax
import mujoco
import numpy as np
import pytest
import splat_scenes as scenes

from scenes.contract.specs import CameraSpec
from scenes.layouts import front_camera
from splat_render.backends import reference
from splat_render.cameras import axes_towards, intrinsics, jittered, make_rig, place
from splat_render.types import BodyPoses

MODEL = """
<mujoco><worldbody>
  <body name="arm" pos=".1 .2 .3" quat=".8 .2 -.4 .4">
    <joint axis="0 1 0"/><geom size=".05"/>
    <camera name="wrist" pos=".05 -.02 .1" quat=".5 .1 .7 -.3" fovy="70"/>
  </body>
  <camera name="front" pos="1 -.6 .5" xyaxes=".5 .86 0 -.3 .2 .9" fovy="40"/>
</worldbody></mujoco>
"""


@pytest.fixture(scope="module")
def mounted():
    """A model at some pose, its cameras by our rig."""
    model = mujoco.MjModel.from_xml_string(MODEL)
    data = mujoco.MjData(model)
    data.qpos[:] = 0.7
    mujoco.mj_forward(model, data)
    specs = []
    for i in range(model.ncam):
        body = model.body(model.cam_bodyid[i]).name
        specs.append(
            CameraSpec(
                name=model.camera(i).name,
                body=None if body == "world" else body,
                pos=tuple(model.cam_pos[i]),
                quat=tuple(model.cam_quat[i]),
                fovy=float(model.cam_fovy[i]),
            )
        )
    rig = make_rig(specs, {"arm": 1}, width=80, height=60)
    return model, data, rig, BodyPoses(np.float32(data.xpos), np.float32(data.xquat))


def test_cameras_stand_where_mujoco_has_them_and_look_its_way(mounted):
    model, data, rig, poses = mounted
    cameras = place(rig, poses)
    for i in range(model.ncam):
        view = np.asarray(cameras.viewmats[i])
        back = np.linalg.inv(view)
        np.testing.assert_allclose(back[:3, 3], data.cam_xpos[i], atol=1e-6)
        axes = data.cam_xmat[i].reshape(3, 3) @ np.diag([1, -1, -1])
        np.testing.assert_allclose(back[:3, :3], axes, atol=1e-6)


def test_a_point_is_seen_where_the_field_of_view_says(mounted):
    """A point at the upper edge of MuJoCo's view is in the picture's upper row."""
    model, data, rig, poses = mounted
    cameras = place(rig, poses)
    for i in range(model.ncam):
        top = np.tan(np.radians(model.cam_fovy[i]) / 2)
        # In the camera's MuJoCo axes: ahead is -z, up is +y.
        point = data.cam_xpos[i] + data.cam_xmat[i].reshape(3, 3) @ [0, 2 * top, -2]
        x, y, z, _ = np.asarray(cameras.viewmats[i]) @ [*point, 1]
        K = np.asarray(cameras.Ks[i])
        assert z == pytest.approx(2, abs=1e-5)
        assert K[0, 0] * x / z + K[0, 2] == pytest.approx(40, abs=1e-3)
        assert K[1, 1] * y / z + K[1, 2] == pytest.approx(0, abs=1e-3)


def test_a_blob_is_drawn_where_mujoco_would_see_it(mounted):
    model, data, rig, poses = mounted
    # To the right and below the middle of the second camera's view.
    right, up, back = data.cam_xmat[1].reshape(3, 3).T
    point = data.cam_xpos[1] + 0.15 * right - 0.1 * up - back
    blob = scenes.float32_set([point], [[1, 0, 0, 0]], [[0.01] * 3], [0.9], np.ones((1, 1, 3)), [0])
    frame = reference.rasterize(blob, poses, place(rig, poses), scenes.config(80, 60))
    row, column = np.unravel_index(np.argmax(frame.alpha[1]), (60, 80))
    focal = 30 / np.tan(np.radians(model.cam_fovy[1]) / 2)
    assert (row, column) == (int(30 + 0.1 * focal), int(40 + 0.15 * focal))


def test_worlds_have_their_own_poses(mounted):
    _, _, rig, poses = mounted
    shift = np.array([[0, 0, 0], [0.1, 0.2, 0.3]], np.float32)
    worlds = BodyPoses(poses.xpos + shift[:, None], np.stack([poses.xquat] * 2))
    cameras = place(rig, worlds)
    assert cameras.viewmats.shape == (2, 2, 4, 4)
    assert cameras.Ks.shape == (2, 2, 3, 3)
    for world in range(2):
        one = place(rig, jax.tree.map(lambda x, w=world: x[w], worlds))
        np.testing.assert_allclose(cameras.viewmats[world], one.viewmats, atol=1e-6)
    assert np.abs(cameras.viewmats[0] - cameras.viewmats[1]).max() > 0.05


def test_intrinsics_are_square_pixels_of_the_vertical_field_of_view():
    K = intrinsics(90.0, 100, 60)
    np.testing.assert_allclose(K, [[30, 0, 50], [0, 30, 30], [0, 0, 1]], rtol=1e-6)


def test_no_cameras_are_fine():
    rig = make_rig([], {}, width=8, height=8)
    assert place(rig, scenes.still_world()).viewmats.shape == (0, 4, 4)


def test_jitter_leaves_the_first_and_spreads_the_others_as_it_says():
    rig = make_rig([front_camera()], {}, width=8, height=8)
    many = jittered(rig, 4000, position=0.02, angle=2.0, rng=np.random.default_rng(0))
    np.testing.assert_allclose(many.pos[0], rig.pos)
    np.testing.assert_allclose(many.quat[0], rig.quat, atol=1e-7)
    np.testing.assert_allclose(np.std(many.pos - rig.pos, axis=0), np.full((1, 3), 0.02), rtol=0.05)
    angle = 2 * np.arccos(np.clip(np.abs(np.sum(many.quat * rig.quat, axis=-1)), 0, 1))
    # The length of a turn about three axes, each of that deviation.
    np.testing.assert_allclose(np.sqrt(np.mean(angle**2)), np.radians(2.0 * 3**0.5), rtol=0.05)


def test_a_camera_that_looks_somewhere_has_it_ahead_and_up_above():
    axes = axes_towards((1.0, -2.0, 0.5), np.array([0.0, 0.0, 0.2]))
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    assert np.linalg.det(axes) > 0 and axes[2, 0] == 0 and axes[2, 1] > 0
    ahead = np.array([-1.0, 2.0, -0.3])
    np.testing.assert_allclose(-axes[:, 2], ahead / np.linalg.norm(ahead))
