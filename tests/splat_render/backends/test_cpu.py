"""The C++ rasteriser: right on both instruction sets, one call per batch, safe with any numbers."""

import conformance
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from splat_scenes import (
    NUM_BODIES,
    cameras,
    cloud,
    config,
    random_world,
    table_camera,
    table_poses,
    table_scene,
)

from scenes import native_build
from splat_render.backends import cpu, native, reference, xla
from splat_render.types import Background, BodyPoses, CameraBatch, Frame

WORLDS, BODIES, CAMERAS = 3, 4, 2
SMALL = config(20, 12, color=(0.1, 0.2, 0.3))
SUBJECT = conformance.Subject("cpu")
EYES = ((1.3, -0.9, 0.6), (-0.2, 1.2, 0.8))


def stack(trees):
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def worlds(size=SMALL, num: int = WORLDS) -> tuple[BodyPoses, CameraBatch, jax.Array]:
    """Poses [num, B], cameras [num, C] and looks [num] that all differ."""
    poses = stack([random_world(BODIES, seed=i) for i in range(num)])
    eyes = [[np.array(eye) + 0.1 * i for eye in EYES] for i in range(num)]
    return poses, stack([cameras(size, eye) for eye in eyes]), jnp.arange(num) % 2


def backdrop(size=SMALL, num: int = CAMERAS) -> Background:
    """Two looks; a third of the pixels have nothing behind them."""
    rng = np.random.default_rng(0)
    shape = (2, num, size.height, size.width)
    depth = np.where(rng.random(shape) < 0.3, np.inf, rng.uniform(1.0, 2.0, shape))
    return Background(jnp.float32(rng.random((*shape, 3))), jnp.float32(depth))


def assert_same(a, b) -> None:
    """Every leaf, every bit."""
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_close(frame: Frame, exact: Frame) -> None:
    """The issue's limits for a backend."""
    for name in ("rgb", "depth", "alpha"):
        error = np.abs(np.float64(getattr(frame, name)) - getattr(exact, name))
        assert error.max() <= 1e-3, name
        assert error.mean() <= 1e-6, name


@pytest.mark.parametrize("name", conformance.PICTURES)
def test_every_picture(name):
    conformance.check_picture(SUBJECT, name)


@pytest.mark.parametrize("name", conformance.BEHAVIOURS)
def test_every_behaviour(name):
    conformance.check_behaviour(SUBJECT, name)


@pytest.fixture(params=[native.TARGET, native.BASELINE_TARGET])
def instructions(request, monkeypatch):
    """Each instruction set of the library in turn."""
    monkeypatch.setattr(native, "TARGET", request.param)


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("antialiased", [True, False])
def test_draws_what_the_reference_draws(degree, antialiased):
    size = config(37, 29, antialiased=antialiased, alpha_max=0.97, blur=0.2, color=(0.3, 0.5, 0.9))
    args = (cloud(501, degree=degree, num_bodies=BODIES), *worlds(size)[:2], size)
    assert_close(cpu.rasterize(*args), reference.rasterize_float64(*args))


@pytest.mark.usefixtures("instructions")
def test_splats_behind_the_background_are_hidden():
    args = (cloud(500, num_bodies=BODIES), *worlds()[:2], SMALL, backdrop(), worlds()[2])
    drawn = cpu.rasterize(*args)
    assert_close(drawn, reference.rasterize_float64(*args))
    seen_through = cpu.rasterize(*args[:4], args[4].replace(depth=args[4].depth + 9.0), args[5])
    assert np.abs(drawn.rgb - seen_through.rgb).max() > 0.1, "the scene must have hidden splats"


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize(("width", "height"), [(1, 1), (9, 200), (200, 9), (64, 64)])
def test_any_picture_size(width, height):
    size = config(width, height)
    args = (cloud(300), random_world(1), cameras(size), size)
    assert_close(cpu.rasterize(*args), reference.rasterize_float64(*args))


@pytest.mark.parametrize("antialiased", [True, False])
def test_a_scene_of_surfaces(antialiased):
    size = config(64, 64, antialiased=antialiased)
    args = (table_scene(4000), table_poses(), table_camera(size), size)
    assert_close(cpu.rasterize(*args), reference.rasterize_float64(*args))


def test_every_way_to_batch_draws_the_same_bits():
    splats, (poses, cams, look), behind = cloud(300, num_bodies=BODIES), worlds(), backdrop()

    def draw(poses, cams, look):
        return cpu.rasterize(splats, poses, cams, SMALL, behind, look)

    together = draw(poses, cams, look)
    rows = [jax.tree.map(lambda x, i=i: x[i], (poses, cams, look)) for i in range(WORLDS)]
    assert_same(together, stack([draw(*row) for row in rows]))
    assert_same(together, jax.jit(draw)(poses, cams, look))
    assert_same(together, jax.jit(jax.vmap(draw))(poses, cams, look))
    _, scanned = jax.lax.scan(lambda c, row: (c, draw(*row)), 0, (poses, cams, look))
    assert_same(together, scanned)

    def one_camera(poses, cam, look):
        picture = behind.replace(rgb=behind.rgb[:, :1], depth=behind.depth[:, :1])
        cam = jax.tree.map(lambda x: x[None], cam)
        return cpu.rasterize(splats, poses, cam, SMALL, picture, look)

    nested = jax.vmap(jax.vmap(one_camera, (None, 0, None)), (0, 0, 0))(poses, cams, look)
    first = jax.tree.map(lambda x: x[:, :1], together)
    assert_same(first, jax.tree.map(lambda x: x[:, 0], nested))


def test_a_vmap_is_one_call_and_copies_no_splats():
    splats, (poses, cams, _), behind = cloud(300, num_bodies=BODIES), worlds(), backdrop()

    def draw(splats, poses, cams):
        return jax.vmap(lambda p, c: cpu.rasterize(splats, p, c, SMALL, behind))(poses, cams)

    text = str(jax.make_jaxpr(draw)(splats, poses, cams))
    assert text.count("ffi_call[") == 1
    assert f"f32[{WORLDS},300,3]" not in text
    assert f"f32[{WORLDS},2,{CAMERAS},12,20,3]" not in text


def test_splats_that_are_vmapped_are_drawn_one_set_at_a_time():
    sets, (poses, cams, _) = [cloud(50, num_bodies=BODIES, seed=i) for i in range(2)], worlds()

    def draw(splats):
        return cpu.rasterize(splats, poses, cams, SMALL)

    assert_same(jax.vmap(draw)(stack(sets)), stack([draw(x) for x in sets]))


def test_bytes_have_no_gradient_and_depth_beside_them_has():
    size = config(20, 12, rgb_dtype="uint8")
    splats, (poses, cams, _) = cloud(40, num_bodies=BODIES), worlds()

    def depth(opacities):
        given = splats.replace(opacities=opacities)
        return cpu.rasterize(given, poses, cams, size).depth.sum()

    assert jax.eval_shape(jax.grad(depth), jnp.asarray(splats.opacities)).shape == (40,)


GARBAGE = (np.nan, np.inf, -np.inf, 0.0, 3e38, -3e38, 1e-45)


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("value", GARBAGE)
def test_garbage_in_one_world_stays_there(value):
    splats, behind = cloud(200, degree=3, num_bodies=BODIES), backdrop()
    poses, cams, look = worlds()
    clean = cpu.rasterize(splats, poses, cams, SMALL, behind, look)
    for tree, field in ((poses, "xpos"), (poses, "xquat"), (cams, "viewmats"), (cams, "Ks")):
        dirty = tree.replace(**{field: getattr(tree, field).at[1].set(value)})
        args = (dirty, cams) if tree is poses else (poses, dirty)
        drawn = cpu.rasterize(splats, *args, SMALL, behind, look)
        for world in (0, 2):
            assert_same(*(jax.tree.map(lambda x, w=world: x[w], f) for f in (clean, drawn)))


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("field", ["means", "quats", "scales", "opacities", "sh"])
def test_garbage_splats_come_back_as_a_picture(field):
    splats, (poses, cams, _) = cloud(200, degree=3, num_bodies=BODIES), worlds()
    rng = np.random.default_rng(0)
    dirty = np.array(getattr(splats, field))
    dirty[rng.random(dirty.shape) < 0.3] = rng.choice(GARBAGE)
    for value in GARBAGE:
        dirty[::7] = value
        frame = cpu.rasterize(splats.replace(**{field: dirty}), poses, cams, SMALL)
        assert frame.rgb.shape == (WORLDS, CAMERAS, 12, 20, 3)


@pytest.mark.usefixtures("instructions")
def test_a_splat_on_no_body_draws_nothing():
    splats, (poses, cams, _) = cloud(200, num_bodies=BODIES), worlds()
    lost = np.arange(200) % 3 == 0
    wrong = np.where(lost, np.resize([-1, BODIES, 2**31 - 1, -(2**31)], 200), splats.body_id)
    kept = jax.tree.map(lambda x: x[~lost], splats)
    with_lost = cpu.rasterize(splats.replace(body_id=np.int32(wrong)), poses, cams, SMALL)
    assert_same(with_lost, cpu.rasterize(kept, poses, cams, SMALL))


def test_looks_outside_the_list_are_the_nearest_in_it():
    splats, (poses, cams, _), behind = cloud(50, num_bodies=BODIES), worlds(), backdrop()
    drawn = [
        cpu.rasterize(splats, poses, cams, SMALL, behind, jnp.array(look))
        for look in ([-(2**31), 2**31 - 1, 7], [0, 1, 1])
    ]
    assert_same(*drawn)


def test_nothing_to_draw_is_the_colour_behind():
    _, (poses, cams, _) = cloud(50), worlds()
    none = jax.tree.map(lambda x: x[:0], cloud(50))
    frame = cpu.rasterize(none, poses, cams, SMALL)
    np.testing.assert_allclose(frame.rgb, np.broadcast_to(SMALL.color, frame.rgb.shape), rtol=1e-6)
    assert not np.asarray(frame.alpha).any()
    empty = cpu.rasterize(cloud(50), *jax.tree.map(lambda x: x[:0], (poses, cams)), SMALL)
    assert empty.rgb.shape == (0, CAMERAS, 12, 20, 3)
    no_bodies = jax.tree.map(lambda x: x[:, :0], poses)
    assert_same(cpu.rasterize(cloud(50), no_bodies, cams, SMALL), frame)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"means": np.zeros((50, 4))}, r"means has shape \(50, 4\), expected \(50, 3\)"),
        ({"quats": np.zeros((49, 4))}, r"quats has shape \(49, 4\), expected \(50, 4\)"),
        ({"sh": np.zeros((50, 5, 3))}, "sh has 5 coefficients, allowed: 1, 4, 9 or 16"),
        ({"sh": np.zeros(50)}, r"sh has shape \(50,\)"),
        ({"body_id": np.zeros(50)}, "body_id has dtype float32, expected integer"),
        ({"scales": np.zeros((50, 3), np.int32)}, "scales has dtype int32, expected floating"),
    ],
)
def test_splats_that_do_not_fit_are_refused_in_one_line(changes, message):
    poses, cams, _ = worlds()
    with pytest.raises((ValueError, TypeError), match=message) as error:
        cpu.rasterize(cloud(50).replace(**changes), poses, cams, SMALL)
    assert "\n" not in str(error.value)


def test_worlds_that_do_not_fit_are_refused():
    splats, (poses, cams, look) = cloud(50), worlds()
    fewer = jax.tree.map(lambda x: x[:2], cams)
    with pytest.raises(ValueError, match="viewmats has shape"):
        cpu.rasterize(splats, poses, fewer, SMALL)
    with pytest.raises(ValueError, match="look has shape"):
        cpu.rasterize(splats, poses, cams, SMALL, backdrop(), look[:2])
    with pytest.raises(ValueError, match="background.rgb has shape"):
        cpu.rasterize(splats, poses, cams, SMALL, backdrop(config(24, 12)))


def test_many_splats_and_many_worlds_at_once():
    """More pictures than threads, and a scene as large as a real one."""
    size = config(16, 16, rgb_dtype="uint8")
    splats, num = table_scene(20_000), 40
    poses = stack([table_poses(np.full(7, 0.02 * i)) for i in range(num)])
    cams = stack([table_camera(size)] * num)
    draw = jax.jit(lambda p, c: cpu.rasterize(splats, p, c, size))
    frame = draw(poses, cams)
    assert_same(frame, draw(poses, cams))
    assert len(np.unique(np.asarray(frame.rgb).reshape(num, -1), axis=0)) == num
    assert poses.xpos.shape == (num, NUM_BODIES, 3)


def test_without_a_compiler_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(native_build.shutil, "which", lambda name: None)
    native.load.cache_clear()
    reason = cpu.unavailable()
    native.load.cache_clear()
    assert reason == "no C++ compiler (g++ or clang++): use the xla backend"


def test_a_compiler_that_fails_is_quoted_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(native_build.NativeBuildError, match=r"false failed \(no message\)"):
        native.build()
    assert not list(tmp_path.rglob("*.so"))


def test_it_is_there():
    assert cpu.unavailable() is None


@pytest.mark.parametrize("behind", [False, True])
def test_gradients_are_those_of_xla(behind: bool):
    """Of everything, where splats are opaque, hidden, clipped and outside the picture."""
    poses, cams, look = worlds(num=2)
    size = config(20, 12, rgb_dtype="float32", color=(0.1, 0.2, 0.3), alpha_max=0.9)
    splats = cloud(200, degree=1, num_bodies=BODIES)
    splats = splats.replace(opacities=jnp.linspace(0.0, 1.0, 200))
    rng = np.random.default_rng(1)
    weights = [
        jnp.asarray(rng.normal(size=(2, CAMERAS, 12, 20, k)), jnp.float32) for k in (3, 1, 1)
    ]
    backgrounds = (backdrop(size),) if behind else ()

    def loss(draw, splats, poses, cams, *backgrounds):
        frame = draw(splats, poses, cams, size, *(backgrounds or (None,)), look)
        parts = (frame.rgb, frame.depth[..., None], frame.alpha[..., None])
        return sum((w * part).sum() for w, part in zip(weights, parts, strict=True))

    every = (splats, poses, cams, *backgrounds)
    got, want = (
        jax.jit(
            jax.grad(lambda *args, draw=draw: loss(draw, *args), range(len(every)), allow_int=True)
        )(*every)
        for draw in (cpu.rasterize, xla.rasterize)
    )
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        if a.dtype == jnp.float32:
            scale = np.abs(b).max() + 1e-6
            np.testing.assert_allclose(a / scale, b / scale, atol=2e-4)
