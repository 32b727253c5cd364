from dataclasses import replace

import conformance
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import splat_scenes as scenes

from splat_render.backends import xla

SUBJECT = conformance.Subject("xla")


@pytest.mark.parametrize("name", conformance.PICTURES)
def test_draws_what_the_reference_draws(name: str):
    conformance.check_picture(SUBJECT, name)


@pytest.mark.parametrize("name", conformance.BEHAVIOURS)
def test_behaves(name: str):
    conformance.check_behaviour(SUBJECT, name)


def test_worlds_that_do_not_fit_are_drawn_one_after_the_other(monkeypatch: pytest.MonkeyPatch):
    # Five worlds are drawn nowhere else, so this is traced here.
    case = conformance.looks(5)
    floats = len(case.splats.means) * xla._PER_SPLAT + 32 * 32 * xla._PER_PIXEL
    monkeypatch.setattr(xla, "_BYTES", 2 * 2 * 4 * floats)
    assert xla._worlds_at_once(len(case.splats.means), 2, case.config) == 2
    conformance.assert_same(SUBJECT.draw(case), SUBJECT.wanted(case), SUBJECT)


def test_gradients_are_finite_where_nothing_is_seen():
    case = conformance.facing_away()
    few, size = jax.tree.map(lambda x: x[:64], case.splats), scenes.config(16, 16)
    case = case._replace(splats=few, config=size)

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
        xla.rasterize(splats, scenes.still_world(), scenes.cameras(size), size)
