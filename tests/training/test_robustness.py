"""The grid of extremes: the same starts in worlds of other friction, mass and delay."""

import jax
import jax.numpy as jnp
import numpy as np

from mjx_serl.envs.env import Env
from mjx_serl.envs.observation import Observer
from mjx_serl.training.robustness import physics_grid, play_grid


def test_cells_are_the_corners_of_friction_mass_and_delay(make_native):
    """And what the task itself draws is left out: a corner is a corner in every run."""
    env: Env = make_native("franka/pick_cube_randomized")
    grid = physics_grid(env)
    assert len(grid.cells) == 8
    assert grid.cells["friction 0.4, mass x 2, delay 0.06 s"] == (0.4, 2.0, 0.06)
    own = grid.env.variation
    assert own is not None and own.randomization.entries is not None
    seen = []

    def look(obs, key):
        """Note what is seen, and do nothing."""
        seen.append(obs)
        return jnp.zeros((obs["ee_lag"].shape[0], 4))

    starts = jax.jit(
        lambda key: (
            play_grid(Observer(env), grid, look, key, episodes=2),
            grid.env.reset(key),
        )
    )
    result, fresh = starts(jax.random.key(0))
    assert result.success.shape == (8, 2) and not result.success.any()
    assert (result.steps == 100).all(), "nothing moves the cube, however slippery it is"
    fields = [field for field, _ in own.randomization.entries.fields]
    assert fields == ["body_inertia", "body_mass", "geom_friction"]
    cube = env.scene.object("cube").body_id
    corner = own.randomization.values(jnp.array([0.4, 2.0, 0.06]))
    np.testing.assert_allclose(corner[3], 2.0 * env.scene.model.body_mass[cube])
    np.testing.assert_allclose(corner[4:], 0.4)
    assert seen[0]["ee_lag"].shape[0] == 16 and fresh.carry.values.shape == corner.shape


def test_friction_is_also_that_of_what_is_held_and_of_what_is_fixed(make_native):
    """Of two things that touch the larger friction holds: one left out would undo the low end."""
    env: Env = make_native("franka/peg_insertion")
    own = physics_grid(env).env.variation
    assert own is not None and own.randomization.entries is not None
    drawn = {i // 3 for i in dict(own.randomization.entries.fields)["geom_friction"]}
    for name in ("held", "socket"):
        assert drawn >= set(env.scene.object(name).geom_ids.tolist())
