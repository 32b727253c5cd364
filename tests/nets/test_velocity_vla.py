"""The vision-language-action network over what a task observes."""

from dataclasses import replace
from fnmatch import fnmatch
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mjx_serl.nets import denoising
from mjx_serl.nets.velocity import VELOCITY_NETS
from mjx_serl.nets.velocity_vla import EXPERT_ONLY, VLAVelocityConfig
from mjx_serl.nets.vla.config import SIZES
from mjx_serl.nets.vla.parameters import is_learned, leaves
from scenes.contract.errors import InputError
from scenes.contract.specs import ObsField, ObsSpec

FRONT = ObsField(name="front", shape=(32, 48, 3), dtype="uint8")
WORDS = ObsField(name="instruction", shape=(6,), dtype="int32", scale=259.0, modality="tokens")
JOINTS = ObsField(name="joints", shape=(9,))
HIDDEN = ObsField(name="hidden", shape=(4,), critic_only=True)
SPEC = ObsSpec(fields=(FRONT, WORDS, JOINTS, HIDDEN))
BATCH, HORIZON, DIM = 2, 3, 4


def observed(seed: int) -> dict[str, jax.Array]:
    """Observations of `SPEC`; of the words two are padding."""
    draw = np.random.default_rng(seed)
    words = np.pad(draw.integers(3, 259, (BATCH, 4)), ((0, 0), (0, 2)))
    return {
        "front": jnp.asarray(draw.integers(0, 256, (BATCH, 32, 48, 3)), jnp.uint8),
        "instruction": jnp.asarray(words, jnp.int32),
        "joints": jnp.asarray(draw.normal(size=(BATCH, 9)), jnp.float32),
        "hidden": jnp.zeros((BATCH, 4)),
    }


@pytest.mark.parametrize("state_token", [True, False])
def test_it_reads_pictures_words_and_vectors(state_token: bool) -> None:
    config = VLAVelocityConfig(state_token=state_token, predicted=5)
    assert VELOCITY_NETS["vla"] is VLAVelocityConfig
    net = config.build(SPEC, horizon=HORIZON, dim=DIM)
    assert (net.horizon, net.width, net.cameras) == (5, DIM, ("front",))
    # Not zero anywhere: fresh gates are closed and nothing would pass.
    params = jax.tree.map(lambda x: x + 0.02, jax.jit(net.init)(jax.random.key(0)))
    x, time = jax.random.normal(jax.random.key(1), (BATCH, 5, DIM)), jnp.array([0.3, 0.8])

    @jax.jit
    def ask(params: Any, obs: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        cache, features = net.encode_prefix(params, obs)
        return net.velocity(params, cache, x, time), features

    one, other = observed(0), observed(1)
    velocity, features = ask(params, one)
    assert velocity.shape == x.shape and features.shape == (BATCH, net.feature_dim)
    for name, counts in (("front", True), ("instruction", True), ("joints", state_token)):
        moved = np.abs(ask(params, one | {name: other[name]})[0] - velocity).max()
        assert (moved > 1e-4) == counts, (name, moved)


@pytest.mark.parametrize("pi05", [True, False])
def test_patterns_of_what_is_trained(pi05: bool) -> None:
    for path in leaves(replace(SIZES["tiny"], pi05=pi05)):
        assert any(fnmatch(path, pattern) for pattern in EXPERT_ONLY) == is_learned(path), path


@pytest.mark.parametrize(
    ("fields", "config", "dim", "said"),
    [
        ((JOINTS,), {}, 4, "got 0 images and 0 instructions"),
        ((FRONT, ObsField(name="far", shape=(8, 8, 1), modality="depth")), {}, 4, "'far'"),
        ((replace(FRONT, shape=(32, 32, 9)),), {}, 4, r"'front' \(32, 32, 9\)"),
        ((FRONT, replace(JOINTS, shape=(40,))), {"size": "full"}, 4, "40 numbers observed"),
        ((FRONT,), {"size": "full"}, 33, "33 numbers of an action, allowed: up to 32"),
        ((FRONT, replace(WORDS, scale=300_000.0)), {"size": "full"}, 4, "300000 words"),
    ],
)
def test_what_it_cannot_read(fields: tuple, config: dict, dim: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        VLAVelocityConfig(**config).build(ObsSpec(fields=fields), horizon=HORIZON, dim=dim)


def test_the_full_net_has_openpis_parameters() -> None:
    net = VLAVelocityConfig(size="full", predicted=50).build(SPEC, horizon=5, dim=7)
    tree = jax.eval_shape(net.init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(tree)) == 3_238_048_528
    assert (net.width, net.horizon) == (32, 50)


@pytest.mark.slow
def test_it_learns_to_do_what_it_is_told_sees_and_feels() -> None:
    """A word says the sign of the first number, the picture's light that of the second, and the
    vector how much: a policy that is blind to one of them is off by 0.15 or more.
    """
    front = replace(FRONT, shape=(32, 32, 3))
    spec = ObsSpec(fields=(front, replace(WORDS, shape=(2,)), replace(JOINTS, shape=(1,))))
    net = VLAVelocityConfig().build(spec, horizon=2, dim=2)
    params = jax.jit(net.init)(jax.random.key(0))
    optimizer = optax.adam(2e-3)

    def examples(key: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        draw, size = jax.random.uniform(key, (32, 3)), (32, 32, 32, 3)
        word, light = draw[:, 0] > 0.5, draw[:, 1] > 0.5
        shown = jnp.where(light[:, None, None, None], jnp.uint8(220), jnp.uint8(30))
        told = jnp.stack([jnp.where(word, 80, 90), jnp.zeros(32, int)], axis=1)
        obs = {"front": jnp.broadcast_to(shown, size), "instruction": told, "joints": draw[:, 2:]}
        signs = jnp.stack([word, light], axis=1) * 2.0 - 1.0
        actions = (0.3 + 0.6 * draw[:, 2:]) * signs
        return obs, jnp.repeat(actions[:, None], 2, axis=1)

    def loss(params: Any, key: jax.Array) -> jax.Array:
        example_key, point_key = jax.random.split(key)
        obs, actions = examples(example_key)
        x, time, wanted = denoising.noisy_point(point_key, actions)
        cache, _ = net.encode_prefix(params, obs)
        return jnp.square(net.velocity(params, cache, x, time) - wanted).mean()

    @jax.jit
    def learned(params: Any) -> jax.Array:
        def step(carry: tuple, key: jax.Array) -> tuple[tuple, None]:
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params, key), state)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(jax.random.key(1), 300)
        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
        obs, actions = examples(jax.random.key(2))
        cache, _ = net.encode_prefix(params, obs)
        noise = jax.random.normal(jax.random.key(3), actions.shape)
        made = denoising.follow(partial(net.velocity, params, cache), noise, 5)
        return jnp.abs(made - actions).mean()

    assert learned(params) < 0.12
