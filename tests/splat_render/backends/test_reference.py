"""The reference by hand-derived numbers; against gsplat's own functions, see `test_gsplat`."""

import time
from dataclasses import replace

import jax
import numpy as np
import pytest
import splat_scenes as scenes

from scenes.contract.rotations import quats_to_matrices
from splat_render.backends import reference
from splat_render.background import psnr
from splat_render.types import Background, GaussianSet

DC = 0.28209479177387814  # the harmonic of degree 0


def blobs(depths, opacities, colors, *, sigma: float = 0.5, x: float = 0.0) -> GaussianSet:
    """Round splats one behind the other on the axis of `camera`."""
    count = len(depths)
    return scenes.float32_set(
        [[x, 0.0, z] for z in depths],
        [[1, 0, 0, 0]] * count,
        np.full((count, 3), sigma),
        opacities,
        (np.asarray(colors, float).reshape(count, 1, 3) - 0.5) / DC,
    )


def ahead(size):
    """A camera at the origin that looks along the world's z, focal length 10 px."""
    one = scenes.cameras(size)
    K = np.float32([[10, 0, size.width / 2], [0, 10, size.height / 2], [0, 0, 1]])
    return replace(one, viewmats=np.eye(4, dtype=np.float32)[None], Ks=K[None])


def draw(splats, size, **kwargs):
    """Float64 picture of the only camera."""
    frame = reference.rasterize_float64(
        splats, scenes.still_world(), ahead(size), size, *kwargs.values()
    )
    return jax.tree.map(lambda x: x[0], frame)


def test_one_splat_is_the_gaussian_by_hand():
    """Hand-derived: s = 0.5 m at 2 m with f = 10 px is 2.5 px; the blur adds 0.3 px^2."""
    size = scenes.config(9, 9, antialiased=False)
    frame = draw(blobs([2.0], [0.8], [[1.0, 0.5, 0.0]]), size)
    variance = 2.5**2 + 0.3
    distance = np.arange(9) - 4.0
    alpha = np.float64(np.float32(0.8)) * np.exp(
        -0.5 * (distance**2 + distance[:, None] ** 2) / variance
    )
    alpha[alpha < 1 / 255] = 0
    np.testing.assert_allclose(frame.alpha, alpha, atol=1e-12)
    np.testing.assert_allclose(frame.depth, 2 * alpha, atol=1e-12)
    np.testing.assert_allclose(frame.rgb, alpha[..., None] * [1, 0.5, 0], atol=1e-6)


def test_antialiasing_keeps_the_light_of_a_small_splat():
    """Opacity times the footprint without blur over that with it: areas, so its square root."""
    size = scenes.config(9, 9)
    frame = draw(blobs([2.0], [0.8], [[1, 1, 1]], sigma=0.05), size)
    sharp = 0.25**2
    assert frame.alpha[4, 4] == pytest.approx(0.8 * sharp / (sharp + 0.3), rel=1e-6)


def test_splats_hide_each_other_in_order_of_depth_whatever_their_order_in_the_set():
    size = scenes.config(9, 9, antialiased=False, color=(0.2, 0.2, 0.2))
    near_last = blobs([3.0, 2.0], [0.5, 0.6], [[0, 1, 0], [1, 0, 0]], sigma=5.0)
    frame = draw(near_last, size)
    pixel = np.array([0.6, 0.4 * 0.5, 0.0]) + 0.4 * 0.5 * 0.2
    np.testing.assert_allclose(frame.rgb[4, 4], pixel, atol=1e-3)
    assert frame.depth[4, 4] == pytest.approx(0.6 * 2 + 0.4 * 0.5 * 3, abs=1e-3)
    assert frame.alpha[4, 4] == pytest.approx(1 - 0.4 * 0.5, abs=1e-3)


def test_alpha_is_clipped_and_a_finished_pixel_takes_no_more():
    size = scenes.config(9, 9, antialiased=False, alpha_max=0.9, transmittance_min=0.05)
    # 1 -> 0.1, then 0.01 would be too little: the second is not drawn, nor the faint third.
    splats = blobs([1.0, 2.0, 3.0], [1.0, 1.0, 0.2], [[1, 0, 0], [0, 1, 0], [0, 0, 1]], sigma=9.0)
    frame = draw(splats, size)
    np.testing.assert_allclose(frame.rgb[4, 4], [0.9, 0, 0], atol=1e-6)
    assert frame.alpha[4, 4] == pytest.approx(0.9)


def test_what_is_behind_the_background_is_not_drawn_and_what_is_left_is_filled():
    size = scenes.config(9, 9, antialiased=False)
    splats = blobs([1.0, 2.0], [0.5, 0.5], [[1, 0, 0], [0, 1, 0]], sigma=9.0)
    rgb = np.full((2, 1, 9, 9, 3), [0.0, 0.0, 1.0])
    depth = np.full((2, 1, 9, 9), 1.5)
    depth[1] = np.inf
    hidden = draw(splats, size, background=Background(rgb, depth))
    np.testing.assert_allclose(hidden.rgb[4, 4], [0.5, 0, 0.5], atol=1e-2)
    assert hidden.depth[4, 4] == pytest.approx(0.5 * 1 + 0.5 * 1.5, abs=1e-2)
    shown = draw(splats, size, background=Background(rgb, depth), look=np.int32(1))
    np.testing.assert_allclose(shown.rgb[4, 4], [0.5, 0.25, 0.25], atol=1e-2)
    # Nothing is behind: no depth of infinity comes in.
    assert shown.depth[4, 4] == pytest.approx(0.5 * 1 + 0.25 * 2, abs=1e-2)
    assert (shown.alpha == 1).all()


def test_a_splat_nearer_than_the_near_plane_draws_nothing():
    size = scenes.config(9, 9, near=0.5)
    colors = [[1, 1, 1]]
    assert draw(blobs([0.499], [0.9], colors, sigma=0.05), size).alpha.max() == 0
    assert draw(blobs([-2.0], [0.9], colors, sigma=5.0), size).alpha.max() == 0
    assert draw(blobs([0.5], [0.9], colors, sigma=0.05), size).alpha.max() > 0.5


def test_harmonics_turn_with_their_body():
    """Seen from the same side of the body, the colour is the same."""
    size = scenes.config(9, 9)
    splats = scenes.cloud(1, degree=3, seed=4)
    splats = replace(splats, means=np.zeros((1, 3), np.float32), opacities=np.float32([0.9]))
    splats = replace(splats, scales=np.full((1, 3), 0.1, np.float32))
    still, turned = scenes.still_world(), scenes.random_world(2, seed=3)
    quat = turned.xquat[1:]
    rotation = quats_to_matrices(np.float64(quat[0]))
    eye = np.array([1.3, -0.9, 0.6])

    def color(eye, quat):
        poses = replace(still, xquat=quat)
        frame = reference.rasterize_float64(splats, poses, scenes.cameras(size, [eye]), size)
        return frame.rgb[0, 4, 4] / frame.alpha[0, 4, 4]

    straight = color(eye, still.xquat)
    np.testing.assert_allclose(color(rotation @ eye, quat), straight, atol=1e-5)
    assert np.abs(color(eye, quat) - straight).max() > 0.05


def test_antialiasing_is_worth_it_at_64_px():
    """Against pictures of eight times the size, averaged."""
    small, large = scenes.config(), scenes.config(512, 512, antialiased=False)
    splats, poses = scenes.table_scene(20_000), scenes.table_poses()
    frame = reference.rasterize_float64(splats, poses, scenes.table_camera(large), large)
    truth = frame.rgb[0].reshape(64, 8, 64, 8, 3).mean((1, 3))

    def quality(antialiased: bool) -> float:
        size = replace(small, antialiased=antialiased)
        frame = reference.rasterize_float64(splats, poses, scenes.table_camera(size), size)
        return psnr(frame.rgb[0], truth)

    assert quality(True) >= 29
    assert quality(False) <= 25


def test_ten_thousand_splats_take_under_a_second():
    """Or no suite could afford it: 0.35 s of CPU when this was written."""
    size = scenes.config()
    splats, poses, camera = scenes.table_scene(), scenes.table_poses(), scenes.table_camera(size)
    seconds = []
    for _ in range(2):
        start = time.process_time()
        reference.rasterize(splats, poses, camera, size)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 1.0


def test_worlds_and_cameras_are_drawn_one_by_one():
    size = scenes.config(16, 16)
    poses = [scenes.random_world(3, seed=i) for i in range(2)]
    cameras = scenes.cameras(size, [(1.3, -0.9, 0.6), (-1.1, 0.8, 0.9)])
    splats = scenes.cloud(100, num_bodies=3)
    both = reference.rasterize(
        splats,
        jax.tree.map(lambda *x: np.stack(x), *poses),
        jax.tree.map(lambda x: np.stack([x, x]), cameras),
        replace(size, rgb_dtype="uint8"),
    )
    assert both.rgb.shape == (2, 2, 16, 16, 3)
    assert both.rgb.dtype == np.uint8
    assert both.depth.shape == both.alpha.shape == (2, 2, 16, 16)
    for world in range(2):
        for camera in range(2):
            one = jax.tree.map(lambda x, c=camera: x[c : c + 1], cameras)
            alone = reference.rasterize(splats, poses[world], one, size)
            rounded = np.round(255 * np.clip(alone.rgb[0], 0, 1))
            np.testing.assert_array_equal(both.rgb[world, camera], rounded)
