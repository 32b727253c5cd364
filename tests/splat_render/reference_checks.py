"""The reference against gsplat 1.5.3's own torch functions, which run on a CPU, in float64.

`test_gsplat.py` runs this file where torch and gsplat are.
"""

import numpy as np
import pytest
import splat_scenes as scenes
import torch
from gsplat.cuda import _torch_impl

from scenes.contract.rotations import quats_to_matrices
from splat_render.backends import reference

# float64 in another order of operations.
CLOSE = 1e-12


def torch64(array) -> torch.Tensor:
    return torch.tensor(np.asarray(array), dtype=torch.float64)


def by_gsplat(points, covars, K, size):
    """Pixels, depths, inverse covariances, antialiasing factors and who is seen."""
    radii, means2d, depths, conics, shrink = _torch_impl._fully_fused_projection(
        *(torch64(points), torch64(covars), torch.eye(4, dtype=torch.float64)[None]),
        *(torch64(K)[None], size.width, size.height),
        eps2d=size.blur,
        near_plane=size.near,
        calc_compensations=True,
    )
    seen = (radii > 0).reshape(1, len(points), -1).all(-1)[0].numpy()
    return seen, *(x[0].numpy() for x in (means2d, depths, conics, shrink))


def test_covariances_are_gsplats():
    splats = scenes.cloud(2000)
    want, _ = _torch_impl._quat_scale_to_covar_preci(
        torch64(splats.quats), torch64(splats.scales), compute_preci=False
    )
    # gsplat makes quaternions unit once more, in float64.
    quats = scenes.unit(np.float64(splats.quats))
    got = reference.covariances(quats, np.float64(splats.scales))
    assert np.abs(got - want.numpy()).max() < CLOSE


@pytest.mark.parametrize("eye", [(1.3, -0.9, 0.6), (0.05, 0.03, 0.02)], ids=["before", "inside"])
def test_projection_is_gsplats(eye):
    """Means, blurred covariances and antialiasing; from inside, the Jacobian's clamp as well."""
    size = scenes.config(100, 72)
    splats = scenes.cloud(2000)
    camera = scenes.cameras(size, [eye], stretch=1.3, offset=(7.5, -4.25))
    view, K = np.float64(camera.viewmats[0]), np.float64(camera.Ks[0])
    points = np.float64(splats.means) @ view[:3, :3].T + view[:3, 3]
    quats = scenes.unit(np.float64(splats.quats))
    covars = reference.covariances(quats, np.float64(splats.scales))
    covars = view[:3, :3] @ covars @ view[:3, :3].T
    points, covars = (x[points[:, 2] > size.near] for x in (points, covars))
    assert len(points) > 900
    seen, means2d, depths, conics, shrink = by_gsplat(points, covars, K, size)
    got, sharp = reference.project_camera(points, covars, K, size.width, size.height)
    covars2d = sharp + size.blur * np.eye(2)
    scale = 1 + np.abs(got).max(-1)
    assert (np.abs(got - means2d).max(-1) / scale).max() < CLOSE
    assert np.abs(points[:, 2] - depths).max() < CLOSE
    # Multiplied out, for near the camera a covariance of 1e6 px^2 has an inverse of 1e-6.
    a, b, c = np.moveaxis(conics, -1, 0)
    inverse = np.stack([np.stack([a, b], -1), np.stack([b, c], -1)], -2)
    condition = np.linalg.cond(covars2d)
    one = np.abs(inverse @ covars2d - np.eye(2)).max((-2, -1)) / condition
    assert one.max() < CLOSE
    factor = np.sqrt(np.maximum(np.linalg.det(sharp) / np.linalg.det(covars2d), 0.0))
    assert np.abs(factor - shrink).max() < 1e-7
    assert np.abs(factor - shrink)[condition < 100].max() < CLOSE
    # What gsplat's bounding circles leave out does not touch the picture here either.
    assert seen.sum() > 300
    limit = 0.15 * size.width / K[0, 0] + (size.width - K[0, 2]) / K[0, 0]
    clamped = points[:, 0] / points[:, 2] > limit
    assert clamped.any() == (eye[0] < 0.1)


@pytest.mark.parametrize("degree", range(4))
def test_harmonics_are_gsplats(degree: int):
    rng = np.random.default_rng(degree)
    directions = scenes.unit(rng.normal(size=(500, 3)))
    sh = rng.normal(size=(500, (degree + 1) ** 2, 3))
    want = _torch_impl._spherical_harmonics(degree, torch64(directions), torch64(sh))
    got = reference.spherical_harmonics(directions, sh)
    assert np.abs(got - want.numpy()).max() < CLOSE


def test_whole_projection_is_gsplats_on_turned_bodies():
    """`project` with poses: splats carried into the world by hand, then gsplat's own way."""
    size = scenes.config()
    splats, poses = scenes.cloud(500, num_bodies=4), scenes.random_world(4)
    camera = scenes.cameras(size)
    body = np.asarray(splats.body_id)
    turn = quats_to_matrices(np.float64(poses.xquat))[body]
    means = np.einsum("gij,gj->gi", turn, np.float64(splats.means)) + poses.xpos[body]
    quats = scenes.multiply_quats(np.float64(poses.xquat)[body], np.float64(splats.quats))
    covars, _ = _torch_impl._quat_scale_to_covar_preci(torch64(quats), torch64(splats.scales))
    view, K = np.float64(camera.viewmats[0]), np.float64(camera.Ks[0])
    points = means @ view[:3, :3].T + view[:3, 3]
    covars = view[:3, :3] @ covars.numpy() @ view[:3, :3].T
    _, means2d, depths, _, shrink = by_gsplat(points, covars, K, size)
    one = camera.replace(viewmats=camera.viewmats[0], Ks=camera.Ks[0])
    seen = reference.project(splats, poses, one, size)
    order = np.argsort(depths, kind="stable")
    order = order[depths[order] >= size.near]
    # float32 quaternions are unit to 1e-7 only, and gsplat makes them so.
    assert np.abs(seen.means2d - means2d[order]).max() < 1e-4
    assert np.abs(seen.depths - depths[order]).max() < 1e-6
    assert np.abs(seen.opacities - (splats.opacities * shrink)[order]).max() < 1e-5
