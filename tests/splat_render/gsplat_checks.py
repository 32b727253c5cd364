"""What the gsplat backend must hold; `test_gsplat.py` runs this file where torch and gsplat are.

gsplat's kernels need CUDA. On a CPU its own Python runs, from the check of its arguments to the
picture, with its kernels replaced: projection and harmonics by gsplat's torch versions of them,
compositing, of which it has none for a CPU, by `composite` below. So there it is tested that
gsplat is given the right arrays and that its answer is read rightly, not its compositing.
"""

import dataclasses
import functools

import conformance
import gsplat
import gsplat.rendering
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import splat_scenes as scenes
import torch
from gsplat.cuda import _torch_impl

from scenes.contract.rotations import quats_to_matrices
from splat_render.backends import external, reference
from splat_render.backends import gsplat as gsplat_backend
from splat_render.types import Background, Frame

EYES = ((1.3, -0.9, 0.6), (-1.1, 0.8, 0.9))
PIXELWISE = "its background is tested per pixel, see below"
SUBJECT = conformance.Subject(
    "gsplat",
    mean=5e-6,
    config={"alpha_max": 0.999},
    without={"background": PIXELWISE, "background_one_world": PIXELWISE}
    | conformance.MEAN_DEPTH
    | ({} if torch.cuda.is_available() else {"surface_sh1_128": "too large for `composite`"}),
)

# float32 loses the determinant of a needle, and with it the antialiasing factor.
LOOSE = {"needles": {"max": 5e-3, "mean": 5e-5}}

config = functools.partial(scenes.config, 32, 32, alpha_max=0.999)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch):
    """Let gsplat's Python run without its kernels where there is no CUDA."""
    if torch.cuda.is_available():
        return
    monkeypatch.setattr(gsplat_backend, "unavailable", lambda: None)
    monkeypatch.setattr(gsplat.rendering, "fully_fused_projection", projection)
    monkeypatch.setattr(gsplat.rendering, "isect_tiles", lambda *_, **__: (None, None, None))
    monkeypatch.setattr(
        gsplat.rendering, "isect_offset_encode", lambda _, n, w, h: torch.zeros(n * w * h)
    )
    monkeypatch.setattr(gsplat.rendering, "rasterize_to_pixels", composite)
    projected.clear()


# Radii and depths of the last projection: gsplat's compositing finds them in its tiles.
projected: list[torch.Tensor] = []


def projection(means, covars, quats, scales, viewmats, Ks, width, height, **options):
    assert not options["packed"]
    assert covars is None
    assert options["radius_clip"] == 0.0
    assert all(x.is_contiguous() for x in (means, quats, viewmats, Ks))
    covars, _ = _torch_impl._quat_scale_to_covar_preci(quats, scales, compute_preci=False)
    keep = ("eps2d", "near_plane", "far_plane", "calc_compensations")
    seen = _torch_impl._fully_fused_projection(
        means, covars, viewmats, Ks, width, height, **{k: options[k] for k in keep}
    )
    projected[:] = [seen[0], seen[2]]
    return seen


def composite(means2d, conics, colors, opacities, width, height, *_, packed, **__):
    """All splats over all pixels: what csrc/RasterizeToPixels3DGSFwd.cu says, densely."""
    assert not packed
    radii, z = projected
    worlds, cameras, _ = z.shape
    nearest_first = (
        torch.arange(worlds)[:, None, None],
        torch.arange(cameras)[None, :, None],
        z.argsort(dim=-1, stable=True),
    )
    x, y = torch.arange(width) + 0.5, torch.arange(height)[:, None] + 0.5
    u, v = means2d[nearest_first][..., None, None, :].unbind(-1)
    a, b, c = conics[nearest_first][..., None, None, :].unbind(-1)
    sigma = 0.5 * (a * (u - x) ** 2 + c * (v - y) ** 2) + b * (u - x) * (v - y)
    visible = opacities * (radii > 0).all(-1)
    alpha = (visible[nearest_first][..., None, None] * torch.exp(-sigma)).clamp(max=0.999)
    alpha = torch.where(alpha >= 1 / 255, alpha, 0.0)
    light = torch.cumprod(1 - alpha, dim=2)
    before = torch.cat([torch.ones_like(light[:, :, :1]), light[:, :, :-1]], dim=2)
    weight = torch.where(light > 1e-4, alpha * before, 0.0)
    picture = torch.einsum("ncghw,ncgk->nchwk", weight, colors[nearest_first])
    return picture, weight.sum(2)[..., None]


def on_device(tree):
    return jax.tree.map(jnp.asarray, tree)


def double(tree):
    return jax.tree.map(lambda x: np.float64(x) if x.dtype == np.float32 else x, tree)


def worlds(size, *, degree: int = 2):
    """Three worlds with two cameras each."""
    splats = scenes.cloud(150, degree=degree, num_bodies=4)
    poses = [scenes.random_world(4, seed=seed) for seed in range(3)]
    cameras = [scenes.cameras(size, np.array(EYES) * (1 + 0.1 * i), stretch=1.2) for i in range(3)]
    return splats, *(jax.tree.map(lambda *x: np.stack(x), *many) for many in (poses, cameras))


def assert_close(got: Frame, want: Frame, *, limit: float = 1e-4) -> None:
    for name in ("rgb", "depth", "alpha"):
        error = np.abs(np.asarray(getattr(got, name)) - np.asarray(getattr(want, name)))
        assert error.max() <= limit, (name, error.max())


def test_arrays_change_hands_without_a_copy():
    for array in (jnp.arange(12.0).reshape(3, 4), jnp.zeros((2, 5), jnp.uint8)):
        tensor = gsplat_backend.to_torch(array)
        assert tensor.data_ptr() == array.unsafe_buffer_pointer()
        assert tensor.shape == array.shape
        assert (tensor.cpu().numpy() == np.asarray(array)).all()
        back = gsplat_backend.to_jax(tensor)
        assert back.unsafe_buffer_pointer() == tensor.data_ptr()
    strided = torch.arange(12.0).reshape(3, 4).T
    assert (np.asarray(gsplat_backend.to_jax(strided)) == strided.numpy()).all()


def test_a_picture_comes_back_in_torchs_memory(monkeypatch: pytest.MonkeyPatch, kernels: None):
    """Neither what goes in nor what comes out of a whole draw is copied."""
    size, seen = config(), {}
    original = gsplat.rasterization

    def spy(**tensors):
        seen["in"] = tensors
        seen["out"] = original(**tensors)
        return seen["out"]

    monkeypatch.setattr(gsplat, "rasterization", spy)
    given = gsplat_backend.prepare(*on_device(worlds(size)))
    handed = []
    to_jax = gsplat_backend.to_jax
    monkeypatch.setattr(
        gsplat_backend, "to_jax", lambda tensor: handed.append(to_jax(tensor)) or handed[-1]
    )
    gsplat_backend._draw(given, size)
    for name in ("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks"):
        assert seen["in"][name].data_ptr() == getattr(given, name).unsafe_buffer_pointer(), name
    for array, tensor in zip(handed, seen["out"], strict=False):
        assert array.unsafe_buffer_pointer() == tensor.data_ptr()


@pytest.mark.parametrize("degree", [0, 3])
def test_gsplats_own_functions_project_what_we_hand_over_as_the_reference(degree: int):
    size = config()
    splats, poses, cameras = worlds(size, degree=degree)
    given = jax.tree.map(np.asarray, gsplat_backend.prepare(*on_device((splats, poses, cameras))))
    tensors = {k: torch.tensor(v, dtype=torch.float64) for k, v in vars(given).items()}
    scales = tensors["scales"].expand(3, *tensors["scales"].shape)
    covars, _ = _torch_impl._quat_scale_to_covar_preci(tensors["quats"], scales)
    seen = _torch_impl._fully_fused_projection(
        *(tensors["means"], covars, tensors["viewmats"], tensors["Ks"]),
        *(size.width, size.height, size.blur, size.near),
        calc_compensations=True,
    )
    _, means2d, z, conics, shrink = (x.numpy() for x in seen)
    exact = [double(x) for x in (poses, cameras)]
    for world, camera in np.ndindex(3, 2):
        one = [
            jax.tree.map(lambda x, w=world: x[w], exact[0]),
            jax.tree.map(lambda x, i=(world, camera): x[i], exact[1]),
        ]
        want = reference.project(double(splats), *one, size)
        order = np.argsort(z[world, camera], kind="stable")
        order = order[z[world, camera][order] >= size.near]
        assert len(order) == len(want.depths) > 100
        inverse = np.linalg.inv(want.covars2d)
        a, b, c = inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]
        opacity = given.opacities[world][order] * shrink[world, camera][order]
        pairs = {
            "means2d": (means2d[world, camera][order], want.means2d),
            "depths": (z[world, camera][order], want.depths),
            "opacities": (opacity, want.opacities),
            "colors": (given.colors[world, camera][order], want.colors),
        }
        for name, (got, expected) in pairs.items():
            # What we hand over was posed in float32.
            assert np.abs(got - expected).max() < 2e-4, name
        stretch = np.abs(conics[world, camera][order] - np.stack([a, b, c], -1))
        assert (stretch / (1 + np.abs(inverse).max((1, 2)))[:, None]).max() < 1e-4


def test_colours_are_gsplats_harmonics_in_the_bodys_frame():
    size = config()
    splats, poses, cameras = worlds(size, degree=3)
    got = np.asarray(gsplat_backend.prepare(*on_device((splats, poses, cameras))).colors)
    for world, camera in np.ndindex(3, 2):
        body = quats_to_matrices(np.float64(poses.xquat[world]))[splats.body_id]
        view = np.float64(cameras.viewmats[world, camera])
        eye = -view[:3, :3].T @ view[:3, 3] - poses.xpos[world][splats.body_id]
        rays = splats.means - np.einsum("gji,gj->gi", body, eye)
        sums = _torch_impl._spherical_harmonics(
            3, torch.tensor(rays), torch.tensor(splats.sh).double()
        )
        assert np.abs(got[world, camera] - np.maximum(sums.numpy() + 0.5, 0)).max() < 1e-5


@pytest.mark.parametrize("name", conformance.PICTURES)
@pytest.mark.usefixtures("kernels")
def test_the_picture_is_the_references(name: str):
    conformance.check_picture(dataclasses.replace(SUBJECT, **LOOSE.get(name, {})), name)


@pytest.mark.parametrize("name", conformance.BEHAVIOURS)
@pytest.mark.usefixtures("kernels")
def test_it_behaves_as_every_backend(name: str):
    conformance.check_behaviour(SUBJECT, name)


@pytest.mark.usefixtures("kernels")
def test_chunks_and_batch_axes_change_nothing(monkeypatch: pytest.MonkeyPatch):
    size = config()
    args = on_device(worlds(size))
    whole = gsplat_backend.rasterize(*args, size)
    splats, poses, cameras = args
    deep = jax.tree.map(lambda x: x[None, :, None], (poses, cameras))
    first = jax.tree.map(lambda x: x[0], (poses, cameras))
    assert gsplat_backend.rasterize(splats, *deep, size).depth.shape == (1, 3, 1, 2, 32, 32)
    alone = gsplat_backend.rasterize(splats, *first, size)
    assert_close(alone, jax.tree.map(lambda x: x[0], whole), limit=1e-5)
    monkeypatch.setattr(external, "CHUNK_BYTES", 2 * 150 * gsplat_backend.bytes_per_splat(2))
    assert external.worlds_at_once(150, gsplat_backend.bytes_per_splat(2)) == 2
    assert_close(gsplat_backend.rasterize(*args, size), whole, limit=1e-5)


@pytest.mark.usefixtures("kernels")
def test_a_background_is_chosen_by_look_and_hides_what_is_behind_it():
    size = config()
    args = worlds(size)
    near, far = np.float32(0.1), np.float32(np.inf)
    rgb = np.zeros((2, 2, 32, 32, 3), np.float32)
    rgb[0], rgb[1] = 0.25, 0.75
    depth = np.broadcast_to(np.array([near, far])[:, None, None, None], (2, 2, 32, 32))
    got = gsplat_backend.rasterize(
        *on_device(args), size, on_device(Background(rgb, depth)), jnp.array([0, 1, 0])
    )
    assert np.asarray(got.alpha).min() == 1
    # Before a wall in front of the camera nothing is left; before nothing, everything.
    assert np.asarray(got.rgb)[[0, 2]] == pytest.approx(0.25)
    assert np.asarray(got.depth)[[0, 2]] == pytest.approx(0.1)
    want = reference.rasterize(*args, dataclasses.replace(size, color=(0.75, 0.75, 0.75)))
    assert np.abs(np.asarray(got.rgb)[1] - want.rgb[1]).max() < 1e-3
    assert np.abs(np.asarray(got.depth)[1] - want.depth[1]).max() < 1e-3


def test_it_says_why_it_cannot_be_called():
    size = config()
    splats, poses, cameras = on_device(worlds(size))
    with pytest.raises(ValueError, match="gsplat: RasterConfig.alpha_max is 0.99, allowed: 0.999"):
        gsplat_backend.rasterize(splats, poses, cameras, dataclasses.replace(size, alpha_max=0.99))
    with pytest.raises(TypeError, match="cannot be traced"):
        jax.jit(lambda p: gsplat_backend.rasterize(splats, p, cameras, size))(poses)
    if not torch.cuda.is_available():
        assert "torch sees no CUDA device" in str(gsplat_backend.unavailable())
