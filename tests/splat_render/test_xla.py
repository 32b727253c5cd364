from dataclasses import replace

import conformance
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import splat_scenes as scenes

from splat_render import reference, xla

SUBJECT = conformance.Subject("xla")


@pytest.mark.parametrize("name", conformance.PICTURES)
def test_draws_what_the_reference_draws(name: str):
    conformance.check_picture(SUBJECT, name)


@pytest.mark.parametrize("name", conformance.BEHAVIOURS)
def test_behaves(name: str):
    conformance.check_behaviour(SUBJECT, name)


def test_worlds_that_do_not_fit_are_drawn_one_after_the_other(monkeypatch: pytest.MonkeyPatch):
    case = conformance.looks(5)
    whole = SUBJECT.draw(case)
    floats = len(case.splats.means) * xla._PER_SPLAT + 32 * 32 * xla._PER_PIXEL
    monkeypatch.setattr(xla, "_BYTES", 2 * 2 * 4 * floats)
    assert xla._worlds_at_once(len(case.splats.means), 2, case.config) == 2
    # Not the jitted function of the subject: that one was traced with room for all.
    parts = jax.jit(lambda *args: xla.rasterize(*args[:3], case.config, *args[3:]))(
        *case[:3], *case[4:]
    )
    conformance.assert_same(parts, whole, SUBJECT)


def test_median_depth_is_where_half_of_the_light_is_used_up():
    case = conformance.table()
    got = jax.jit(xla.median_depth, static_argnums=3)(*case[:4])[0]
    camera = jax.tree.map(lambda x: x[0], case.cameras)
    want = reference.draw(case.splats, case.poses, camera, case.config).median
    assert 0.5 < np.isfinite(want).mean() < 1.0
    assert (np.isfinite(want) == np.isfinite(got)).mean() > 0.999
    both = np.isfinite(want) & np.isfinite(got)
    # Where a splat leaves half of the light to the last digit, the next one may be taken.
    assert (np.abs(got[both] - want[both]) < 1e-5).mean() > 0.999


def test_gradients_are_finite_where_nothing_is_seen():
    case = conformance.facing_away()

    def loss(splats):
        frame = xla.rasterize(splats, *case[1:4])
        return frame.rgb.sum() + frame.depth.sum() + frame.alpha.sum()

    grad = jax.jit(jax.grad(loss, allow_int=True))(jax.tree.map(jnp.asarray, case.splats))
    for name in ("means", "quats", "scales", "opacities", "sh"):
        assert not np.asarray(getattr(grad, name)).any(), name


def test_a_wrong_number_of_harmonics_is_said():
    size = scenes.config(8, 8)
    splats = scenes.cloud(10)
    splats = replace(splats, sh=np.zeros((10, 5, 3), np.float32))
    with pytest.raises(ValueError, match="sh has 5 coefficients, allowed: 1, 4, 9 or 16"):
        jax.jit(xla.rasterize, static_argnums=3)(
            splats, scenes.still_world(), scenes.cameras(size), size
        )
