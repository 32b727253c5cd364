"""What splax must hold; `test_splax.py` runs this file where splax can be imported.

Its real kernels, on a GPU or, with `enable_cpu`, on a CPU.
"""

import dataclasses
import functools

import conformance
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import splat_scenes as scenes

from splat_render.backends import external, reference
from splat_render.backends import splax as splax_backend
from splat_render.types import Background, BodyPoses, CameraBatch, Frame, GaussianSet

EYES = ((1.3, -0.9, 0.6), (-1.1, 0.8, 0.9))
# Of a pixel, in 0..1: splax's fast_math and 1e-6 added to depths leave up to 2.1e-4
# (shared/reference/splat_rendering.md section 3).
MAX, MEAN = 1e-3, 1e-5
# Where more may differ: a splat at the cutoff of 1/255 is drawn or not; float32 loses the
# determinant of a needle, and with it the antialiasing factor; 1e-6 m is much very near the eye.
LOOSE = {
    "surface_sh1_128": {"max": 4e-3},
    "needles": {"max": 5e-3},
    "inside_the_cloud": {"mean": 3e-5},
}
PIXELWISE = "its background is tested per pixel, see below"
SUBJECT = conformance.Subject(
    "splax",
    mean=MEAN,
    max=MAX,
    config={"alpha_max": 0.999},
    without={
        "background": PIXELWISE,
        "background_one_world": PIXELWISE,
        "gradients_are_the_references": PIXELWISE,
        "1x1": "with one tile in the whole batch splax 0.2.3 sorts by 31 bits, too many on a CPU",
        **conformance.MEAN_DEPTH,
    },
)

config = functools.partial(scenes.config, alpha_max=0.999)


@pytest.fixture(scope="module", autouse=True)
def kernels():
    if splax_backend.unavailable() is not None:
        splax_backend.enable_cpu()
    assert splax_backend.unavailable() is None


def on_device(tree):
    return jax.tree.map(jnp.asarray, tree)


# Jitted as in use: call by call every operation would be a program of its own.
jitted = jax.jit(splax_backend.rasterize, static_argnums=3)


def draw(splats, poses, cameras, size, *behind) -> Frame:
    return jitted(*on_device((splats, poses, cameras)), size, *on_device(behind))


def stack(*worlds):
    return jax.tree.map(lambda *x: jnp.stack(x), *worlds)


def assert_close(got: Frame, want: Frame, *, max_error: float) -> None:
    for name in ("rgb", "depth", "alpha"):
        error = np.abs(np.asarray(getattr(got, name)) - np.asarray(getattr(want, name)))
        assert error.max() <= max_error, (name, error.max())


@pytest.mark.parametrize("name", conformance.PICTURES)
def test_the_picture_is_the_references(name: str):
    conformance.check_picture(dataclasses.replace(SUBJECT, **LOOSE.get(name, {})), name)


@pytest.mark.parametrize("name", conformance.BEHAVIOURS)
def test_it_behaves_as_every_backend(name: str):
    conformance.check_behaviour(SUBJECT, name)


def worlds(size) -> tuple[GaussianSet, BodyPoses, CameraBatch]:
    """Four worlds with two cameras each."""
    splats = scenes.cloud(150, degree=1, num_bodies=3)
    poses = stack(*(scenes.random_world(3, seed=seed) for seed in range(4)))
    eyes = [tuple(np.array(EYES) * (1 + 0.1 * i)) for i in range(4)]
    return splats, poses, stack(*(scenes.cameras(size, eye) for eye in eyes))


def test_worlds_that_do_not_fit_are_drawn_in_chunks(monkeypatch: pytest.MonkeyPatch):
    size = config(32, 32)
    args = worlds(size)
    whole = draw(*args, size)
    monkeypatch.setattr(external, "CHUNK_BYTES", 3 * 150 * 2 * splax_backend.BYTES_PER_SPLAT)
    assert external.worlds_at_once(150, 2 * splax_backend.BYTES_PER_SPLAT) == 3
    jitted.clear_cache()  # how many fit is read while tracing
    assert_close(draw(*args, size), whole, max_error=1e-5)


def test_a_background_hides_what_is_behind_it_pixel_by_pixel():
    size = config(32, 32)
    splats, poses, cameras = worlds(size)
    rng = np.random.default_rng(0)
    rgb = np.float32(rng.uniform(size=(2, 2, 32, 32, 3)))
    depth = np.float32(rng.uniform(1.2, 2.0, (2, 2, 32, 32)))
    depth[:, :, :8] = np.inf
    look = np.array([1, 0, 0, 1])
    got = draw(splats, poses, cameras, size, Background(rgb, depth), look)
    alone = reference.rasterize(splats, poses, cameras, size)
    mean_depth = alone.depth / np.maximum(alone.alpha, 1e-12)
    front = (alone.alpha > 0) & (mean_depth < depth[look])
    light = np.where(front, 1 - alone.alpha, 1.0)
    far = np.where(np.isfinite(depth), depth, 0)[look]
    want = Frame(
        np.where(front[..., None], alone.rgb, 0) + light[..., None] * rgb[look],
        np.where(front, alone.depth, 0) + light * far,
        np.ones_like(light),
    )
    assert 0.1 < front.mean() < 0.9
    # Where the two depths agree to a few millionths either answer is right.
    clear = np.abs(mean_depth - depth[look]) > 1e-4
    assert clear.mean() > 0.99
    for name in ("rgb", "depth", "alpha"):
        error = np.abs(np.asarray(getattr(got, name)) - getattr(want, name))[clear]
        assert error.max() <= MAX, (name, error.max())


def test_gradients_are_those_of_the_reference():
    size = config(24, 24, antialiased=False)
    splats, poses = scenes.cloud(30, degree=1, num_bodies=3), scenes.random_world(3)
    cameras = scenes.cameras(size)
    weight = np.random.default_rng(1).uniform(size=(1, 24, 24, 3))
    exact = double((splats, poses))

    def loss(rasterize, args, step):
        frame = rasterize(*moved(*args, step), cameras, size)
        return (frame.rgb * weight).sum() + frame.depth.sum()

    start = {k: getattr(splats, k) for k in ("means", "scales", "opacities", "sh")}
    start = jax.tree.map(jnp.zeros_like, start | {"xpos": poses.xpos})
    args = on_device((splats, poses))
    gradient = jax.jit(jax.grad(functools.partial(loss, splax_backend.rasterize, args)))(start)
    for name in start:
        way = np.random.default_rng(2).normal(size=start[name].shape)
        way *= 0.05 if name == "scales" else 1.0
        h = 1e-6
        ends = [
            loss(reference.rasterize_float64, exact, {name: sign * h * way}) for sign in (1, -1)
        ]
        want = (ends[0] - ends[1]) / (2 * h)
        assert float((gradient[name] * way).sum()) == pytest.approx(want, rel=2e-3, abs=1e-3), name


def double(tree):
    return jax.tree.map(lambda x: np.float64(x) if x.dtype == np.float32 else x, tree)


def moved(splats: GaussianSet, poses: BodyPoses, step: dict) -> tuple[GaussianSet, BodyPoses]:
    """Add a step to arrays of the splats, and to the bodies' positions."""
    named = {k: getattr(splats, k) + v for k, v in step.items() if k != "xpos"}
    xpos = poses.xpos + step.get("xpos", 0.0)
    return dataclasses.replace(splats, **named), dataclasses.replace(poses, xpos=xpos)


def test_what_is_compiled_in_cannot_be_asked_for_otherwise():
    args = (scenes.cloud(10), scenes.still_world(), scenes.cameras(config()))
    for name, value in {
        "alpha_max": 0.99,
        "alpha_min": 0.01,
        "transmittance_min": 1e-3,
        "blur": 0.1,
    }.items():
        with pytest.raises(ValueError, match=f"splax: RasterConfig.{name} is {value}, allowed: "):
            draw(*args, dataclasses.replace(config(), **{name: value}))


def test_enabling_the_cpu_comes_first_or_not_at_all():
    with pytest.raises(RuntimeError, match="after the first import of splax"):
        splax_backend.enable_cpu()
