"""The vision-language-action policy: openpi's tree, openpi's actions, and what masks mean."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import synthetic_vla as rule
from flax.traverse_util import flatten_dict, unflatten_dict

from mjx_serl.nets.vla import parameters
from mjx_serl.nets.vla.config import CAMERAS, SIZES, ExpertSize, VisionSize, VLAConfig
from mjx_serl.nets.vla.images import resize_with_pad
from mjx_serl.nets.vla.memory import memory_use
from mjx_serl.nets.vla.policy import FlowVLA, Observation
from scenes.contract.errors import InputError

# What openpi's class does with the same weights; made by openpi_actions.py.
OPENPI = json.loads((Path(__file__).parent / "openpi_actions.json").read_text())
STEPS = 4


def small(name: str) -> VLAConfig:
    """Sizes of the rule, by a name of `OPENPI`."""
    kind, dtype = name.split("-")
    size, patch = dict(rule.VISION), rule.VISION["patch_size"][0]
    shared = rule.SHARED
    return VLAConfig(
        pi05=kind == "pi05",
        vision=VisionSize(
            width=size["width"],
            depth=size["depth"],
            mlp_dim=size["mlp_dim"],
            heads=size["num_heads"],
            patch=patch,
            image=rule.IMAGE,
        ),
        vlm=ExpertSize(width=rule.VLM["width"], mlp_dim=rule.VLM["mlp_dim"]),
        expert=ExpertSize(width=rule.EXPERT["width"], mlp_dim=rule.EXPERT["mlp_dim"]),
        depth=shared["depth"],
        heads=shared["num_heads"],
        kv_heads=shared["num_kv_heads"],
        head_dim=shared["head_dim"],
        vocabulary=rule.VOCABULARY,
        prompt=rule.PROMPT,
        state_dim=rule.ACTIONS,
        action_dim=rule.ACTIONS,
        horizon=rule.HORIZON,
        compute_dtype=dtype,
    )


@cache
def weights(name: str) -> Any:
    """Parameters by the rule."""
    flat = parameters.leaves(small(name)).items()
    made = {path: jnp.asarray(rule.weight(path, leaf.shape)) for path, leaf in flat}
    return unflatten_dict(made, sep="/")


def seen() -> tuple[Observation, jax.Array]:
    """The rule's observation and noise."""
    raw = {name: jnp.asarray(x) for name, x in rule.observation().items()}
    images, present = (
        {camera: raw[f"{part}/{camera}"] for camera in CAMERAS} for part in ("image", "mask")
    )
    rest = (raw[name] for name in ("tokens", "token_mask", "state"))
    return Observation(images, present, *rest), raw["noise"]


@cache
def sampler(config: VLAConfig) -> Any:
    """A compiled function from parameters, observation and noise to actions and features."""
    net = FlowVLA(config)

    @jax.jit
    def sample(params: Any, obs: Observation, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        read, features = net.encode_prefix(params, *obs)

        def step(carry: tuple, _: None) -> tuple[tuple, None]:
            # Times are added up as openpi adds them: the embedding has periods of 0.004.
            x, time = carry
            velocity = net.velocity(params, read, x, jnp.broadcast_to(time, len(x)))
            return (x - velocity / STEPS, time - 1.0 / STEPS), None

        (x, _), _ = jax.lax.scan(step, (noise, jnp.float32(1.0)), length=STEPS)
        return x, features

    return sample


@pytest.mark.parametrize(
    ("size", "arrays", "numbers", "learned"),
    [
        ("pi0", 50, 3_238_048_528, 311_464_960 + 3_248_160),
        ("pi05", 51, 3_353_433_872, 427_932_672 + 2_165_792),
        ("dummy", 51, 429_443_344, None),
    ],
)
def test_the_trees_of_the_full_sizes(
    size: str, arrays: int, numbers: int, learned: int | None
) -> None:
    """Totals that openpi's own class has (reference vla_and_real2sim.md 4.2, 7.1)."""
    config = SIZES[size]
    config.check()
    tree = jax.eval_shape(FlowVLA(config).init, jax.random.key(0))
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), parameters.shapes(config))
    leaves = jax.tree.leaves(tree)
    assert (len(leaves), sum(x.size for x in leaves)) == (arrays, numbers)
    if learned is not None:
        mask = parameters.learned_mask(tree)
        kept = jax.tree.map(lambda x, on: x.size if on else 0, tree, mask)
        assert sum(jax.tree.leaves(kept)) == learned
        assert parameters.count(config, learned_only=True) == learned


def test_paths_and_shapes_of_pi05() -> None:
    """Some that a shared mistake would leave: openpi's own tree is compared at small sizes."""
    flat = {path: leaf.shape for path, leaf in parameters.leaves(SIZES["pi05"]).items()}
    llm, block = "PaliGemma/llm", "PaliGemma/img/Transformer/encoderblock"
    assert flat[f"{llm}/layers/attn/kv_einsum_1/w"] == (18, 2, 1, 1024, 256)
    assert flat[f"{llm}/layers/pre_ffw_norm_1/Dense_0/kernel"] == (18, 1024, 3072)
    assert flat[f"{llm}/final_norm_1/Dense_0/bias"] == (3072,)
    query = f"{block}/MultiHeadDotProductAttention_0/query/kernel"
    assert flat[query] == (27, 1152, 16, 72)
    assert flat["action_out_proj/kernel"] == (1024, 32)


@pytest.mark.parametrize("kind", ["pi0", "pi05"])
def test_the_tree_is_that_of_openpis_class(kind: str) -> None:
    name = f"{kind}-float32"
    mine = {path: list(leaf.shape) for path, leaf in parameters.leaves(small(name)).items()}
    assert mine == OPENPI[name]["shapes"]


@pytest.mark.parametrize(
    ("name", "atol"), [("pi0-float32", 1e-5), ("pi05-float32", 1e-5), ("pi05-bfloat16", 0.02)]
)
def test_actions_are_those_of_openpis_class(name: str, atol: float) -> None:
    """With one picture masked, one resized, one of bytes, and two prompts of unequal length."""
    obs, noise = seen()
    actions, features = sampler(small(name))(weights(name), obs, noise)
    assert actions.dtype == features.dtype == jnp.float32
    np.testing.assert_allclose(actions, np.array(OPENPI[name][str(STEPS)]), atol=atol)


def test_what_is_masked_changes_nothing() -> None:
    obs, noise = seen()
    left, name = CAMERAS[1], "pi0-float32"
    sample = sampler(small(name))
    want = sample(weights(name), obs, noise)
    hidden = obs.images[left].at[1].multiply(-1.0)
    tokens = jnp.where(obs.token_mask, obs.tokens, 7)
    other = obs._replace(images={**obs.images, left: hidden}, tokens=tokens)
    for x, y in zip(sample(weights(name), other, noise), want, strict=True):
        np.testing.assert_array_equal(x, y)
    shown = obs._replace(images={**obs.images, left: -obs.images[left]})
    assert np.abs(sample(weights(name), shown, noise)[0] - want[0])[0].max() > 1e-3


@pytest.mark.parametrize("kind", ["pi0", "pi05"])
def test_passes_over_the_cache_are_those_of_all_tokens_at_once(kind: str) -> None:
    name = f"{kind}-float32"
    net, params = FlowVLA(replace(small(name), remat=False)), weights(name)
    obs, x = seen()
    time = jnp.array([0.9, 0.3])

    @jax.jit
    def both(params: Any, obs: Observation, x: jax.Array, time: jax.Array) -> tuple:
        read, _ = net.encode_prefix(params, *obs)
        return net.velocity(params, read, x, time), net.joint_velocity(params, obs, x, time)

    cached, joint = both(params, obs, x, time)
    np.testing.assert_allclose(cached, joint, atol=1e-5)
    assert np.abs(joint).max() > 0.5


def test_a_missing_camera_is_a_masked_one() -> None:
    name = "pi05-float32"
    config, params = replace(small(name), remat=False), weights(name)
    obs, x = seen()
    time = jnp.array([0.9, 0.3])
    masked = obs._replace(present={**obs.present, CAMERAS[1]: jnp.array([False, False])})

    def asked(config: VLAConfig) -> tuple[jax.Array, jax.Array]:
        net = FlowVLA(config)

        def ask(params: Any, obs: Observation) -> tuple[jax.Array, jax.Array]:
            read, features = net.encode_prefix(params, *obs)
            return net.velocity(params, read, x, time), features

        return jax.jit(ask)(params, masked)

    full, fewer = asked(config), asked(replace(config, cameras=(CAMERAS[0], CAMERAS[2])))
    for a, b in zip(full, fewer, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_every_learned_parameter_has_a_gradient_and_no_frozen_one_is_among_them() -> None:
    name = "pi05-float32"
    net, params = FlowVLA(small(name)), weights(name)
    obs, x = seen()
    learned, frozen = parameters.split(params)
    paths = set(flatten_dict(learned, sep="/"))
    assert "PaliGemma/img/Transformer/encoderblock/LayerNorm_1/scale" not in paths
    assert "PaliGemma/llm/layers/mlp_1/linear" in paths and "time_mlp_in/bias" in paths
    joined = parameters.join(learned, frozen)
    assert jax.tree.structure(joined) == jax.tree.structure(params)

    @jax.jit
    def gradient(learned: Any, frozen: Any, obs: Observation) -> Any:
        read, _ = net.encode_prefix(frozen, *obs)

        def loss(learned: Any) -> jax.Array:
            whole = parameters.join(learned, frozen)
            return jnp.square(net.velocity(whole, read, x, jnp.array([0.9, 0.3]))).mean()

        return jax.grad(loss)(learned)

    sizes = flatten_dict(gradient(learned, frozen, obs), sep="/")
    assert [path for path, g in sizes.items() if not jnp.abs(jnp.asarray(g)).max() > 0.0] == []


def test_fresh_parameters_of_the_tiny_policy() -> None:
    """Adaptive norms begin as plain ones with closed gates: the layers pass on what they get."""
    params = FlowVLA(SIZES["tiny"]).init(jax.random.key(1))
    flat = flatten_dict(params, sep="/")
    assert sum(x.size for x in flat.values()) == 539_015
    assert not flat["PaliGemma/llm/layers/pre_ffw_norm_1/Dense_0/kernel"].any()
    for path, inputs in (
        ("PaliGemma/llm/layers/attn/attn_vec_einsum/w", 8 * 16),
        ("PaliGemma/llm/layers/attn/q_einsum_1/w", 64),
        ("PaliGemma/llm/layers/mlp/linear", 128),
    ):
        np.testing.assert_allclose(flat[path].std(), inputs**-0.5, rtol=0.05, err_msg=path)


def test_the_full_policy_computes_in_half_precision_and_answers_in_float32() -> None:
    """Shapes alone: the cache is as large as it is said to be before it is made."""
    config = SIZES["pi05"]
    net, params = FlowVLA(config), parameters.shapes(config)
    picture = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.uint8)
    words = jax.ShapeDtypeStruct((2, config.prompt), jnp.int32)
    mask = jax.ShapeDtypeStruct((2, config.prompt), bool)
    obs = Observation(dict.fromkeys(CAMERAS, picture), {}, words, mask, jnp.zeros((2, 8)))
    read, features = jax.eval_shape(net.encode_prefix, params, *obs)
    assert sum(x.size * x.dtype.itemsize for x in read.seen) == memory_use(config, batch=2).cache
    assert (features.shape, features.dtype) == ((2, 2048), jnp.float32)
    x = jnp.zeros((2, 50, 32))
    velocity = jax.eval_shape(net.velocity, params, read, x, jnp.zeros(2))
    assert (velocity.shape, velocity.dtype) == (x.shape, jnp.float32)


def test_memory_is_said_in_bytes() -> None:
    """3.353 G parameters of 4 bytes; 968 tokens of 18 layers, key and value of 256 x 2 bytes."""
    use = memory_use(SIZES["pi05"], batch=2)
    assert use.parameters == 4 * 3_353_433_872
    assert use.optimizer == 2 * use.gradients == 8 * (427_932_672 + 2_165_792)
    assert use.cache == 2 * 968 * 18 * 2 * 256 * 2
    everything = memory_use(SIZES["pi05"], batch=2, learned_only=False)
    assert everything.optimizer == 2 * everything.parameters
    assert str(use).startswith("18.61 GB (parameters 13.41 GB, gradients 1.72 GB")
    assert str(use).endswith("cache 35.68 MB)")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"heads": 3, "kv_heads": 2}, "heads 3, allowed: a multiple of kv_heads"),
        ({"heads": 2, "kv_heads": 2}, "fewer than heads"),
        ({"cameras": ()}, "one or more names"),
        ({"depth": 0}, "depth 0, allowed: at least 1"),
        ({"vision": VisionSize(image=50)}, "vision.image 50, allowed: a multiple"),
    ],
)
def test_sizes_that_fit_nothing_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        replace(SIZES["tiny"], **change).check()


def test_what_is_observed_is_checked() -> None:
    obs, _ = seen()
    net = FlowVLA(small("pi0-float32"))
    shapes = parameters.shapes(net.config)
    with pytest.raises(InputError, match="No picture of base_0_rgb"):
        jax.eval_shape(net.encode_prefix, shapes, *obs._replace(images={}))
    with pytest.raises(InputError, match="A state of 9 numbers, allowed: 5 or fewer"):
        jax.eval_shape(net.encode_prefix, shapes, *obs._replace(state=jnp.zeros((2, 9))))


def test_pictures_are_fitted_with_black_around_them() -> None:
    """A 4 x 8 picture in 6 x 6: 3 rows of it, with 1 above and 2 below."""
    white = jnp.full((1, 4, 8, 3), 255, jnp.uint8)
    fitted = np.asarray(resize_with_pad(white, 6, 6))[0, :, :, 0]
    np.testing.assert_array_equal(fitted, np.repeat([[0], [255], [255], [255], [0], [0]], 6, 1))
    dim = np.asarray(resize_with_pad(jnp.zeros((1, 4, 8, 3)), 6, 6))[0, :, :, 0]
    np.testing.assert_array_equal(
        dim, np.repeat([[-1.0], [0.0], [0.0], [0.0], [-1.0], [-1.0]], 6, 1)
    )
