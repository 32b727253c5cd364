"""The tree of parameters: every path, its shape and how it is drawn, said once.

Names are openpi's (reference vla_and_real2sim.md 4.2), so that its checkpoints fit. Layers that
are alike lie stacked on a leading axis. Joined by "/", paths look as in

    PaliGemma/llm/layers/attn/q_einsum_1/w    [depth, heads, width of the action expert, head_dim]
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.nn.initializers import lecun_normal, normal, xavier_uniform, zeros

from mjx_serl.nets.vla.config import ExpertSize, VLAConfig
from mjx_serl.types import PRNGKey, PyTree

ACTION_EXPERT = "_1"  # ends the names of what the action expert has for itself
_VISION, _LLM = "PaliGemma/img", "PaliGemma/llm"


@dataclass(frozen=True)
class Leaf:
    """One array of parameters, float32.

    Attributes:
        shape: of it.
        init: draws it from a key, a shape and a dtype.
    """

    shape: tuple[int, ...]
    init: Any = zeros


def shapes(config: VLAConfig) -> PyTree:
    """Return the tree with shapes and types in the place of arrays."""
    flat = {
        path: jax.ShapeDtypeStruct(leaf.shape, jnp.float32) for path, leaf in leaves(config).items()
    }
    return unflatten_dict(flat, sep="/")


def draw(config: VLAConfig, key: PRNGKey) -> PyTree:
    """Return fresh parameters, drawn as openpi draws them but for the head of the pictures.

    openpi's head begins at zero, as it is always overwritten; from zero a policy begins blind.
    """
    wanted = leaves(config)
    keys = jax.random.split(key, len(wanted))
    flat = {
        path: leaf.init(one, leaf.shape, jnp.float32)
        for one, (path, leaf) in zip(keys, wanted.items(), strict=True)
    }
    return unflatten_dict(flat, sep="/")


def count(config: VLAConfig, *, learned_only: bool = False) -> int:
    """Number of parameters, or of those that `is_learned` says are learned."""
    wanted = leaves(config).items()
    return sum(math.prod(x.shape) for path, x in wanted if not learned_only or is_learned(path))


def is_learned(path: str) -> bool:
    """Whether reinforcement learning changes a parameter: not what sees and reads.

    That leaves the action expert and the projections of actions, time and state (pi_RL, reference
    vla_and_real2sim.md 7.2).
    """
    # "_1" within pictures is flax's second of two layers, not the second expert.
    parts = path.split("/")
    return parts[0] != "PaliGemma" or (
        parts[1] == "llm" and any(part.endswith(ACTION_EXPERT) for part in parts)
    )


def learned_mask(params: PyTree) -> PyTree:
    """Return the tree with `is_learned` in the place of arrays, as optax.masked wants it."""
    return unflatten_dict(
        {path: is_learned(path) for path in flatten_dict(params, sep="/")}, sep="/"
    )


def split(params: PyTree) -> tuple[PyTree, PyTree]:
    """Return (learned, frozen), two trees that share no leaf: gradients then cost only the first.

    `join` undoes it.
    """
    flat = flatten_dict(params, sep="/")
    learned = {path: x for path, x in flat.items() if is_learned(path)}
    frozen = {path: x for path, x in flat.items() if path not in learned}
    return unflatten_dict(learned, sep="/"), unflatten_dict(frozen, sep="/")


def join(learned: PyTree, frozen: PyTree) -> PyTree:
    """Return the tree that was `split`."""
    return unflatten_dict(flatten_dict(learned) | flatten_dict(frozen))


# -- what there is ---------------------------------------------------------------------------------


def leaves(config: VLAConfig) -> dict[str, Leaf]:
    """Return every parameter by its path."""
    embedding = Leaf((config.vocabulary, config.vlm.width), normal(0.01))
    return {
        **_under(_VISION, _vision(config)),
        f"{_LLM}/embedder/input_embedding": embedding,
        **_under(_LLM, _expert(config, config.vlm, "", adaptive=False)),
        **_under(_LLM, _expert(config, config.expert, ACTION_EXPERT, adaptive=config.pi05)),
        **_projections(config),
    }


def _under(folder: str, leaves: dict[str, Leaf]) -> dict[str, Leaf]:
    return {f"{folder}/{path}": leaf for path, leaf in leaves.items()}


def _linear(path: str, inputs: int, outputs: int) -> dict[str, Leaf]:
    return {
        f"{path}/kernel": Leaf((inputs, outputs), lecun_normal()),
        f"{path}/bias": Leaf((outputs,)),
    }


def _projections(config: VLAConfig) -> dict[str, Leaf]:
    width, actions = config.expert.width, config.action_dim
    ends = {
        **_linear("action_in_proj", actions, width),
        **_linear("action_out_proj", width, actions),
    }
    if config.pi05:
        time = {**_linear("time_mlp_in", width, width), **_linear("time_mlp_out", width, width)}
        return {**ends, **time}
    return {
        **ends,
        **_linear("state_proj", config.state_dim, width),
        **_linear("action_time_mlp_in", 2 * width, width),
        **_linear("action_time_mlp_out", width, width),
    }


def _expert(config: VLAConfig, size: ExpertSize, suffix: str, *, adaptive: bool) -> dict[str, Leaf]:
    """Return what one expert has for itself: `suffix` ends its names."""
    depth, heads, dim, width = config.depth, config.heads, config.head_dim, size.width
    query = lecun_normal(in_axis=-2, out_axis=-1, batch_axis=(0, 1))
    keys = lecun_normal(in_axis=-2, out_axis=-1, batch_axis=(0, 1, 2))
    out = lecun_normal(in_axis=(-3, -2), out_axis=-1, batch_axis=(0,))
    linear = lecun_normal(batch_axis=(0,))
    layers = {
        f"attn/q_einsum{suffix}/w": Leaf((depth, heads, width, dim), query),
        f"attn/kv_einsum{suffix}/w": Leaf((depth, 2, config.kv_heads, width, dim), keys),
        f"attn/attn_vec_einsum{suffix}/w": Leaf((depth, heads, dim, width), out),
        f"mlp{suffix}/gating_einsum": Leaf((depth, 2, width, size.mlp_dim), query),
        f"mlp{suffix}/linear": Leaf((depth, size.mlp_dim, width), linear),
        **_norm(f"pre_attention_norm{suffix}", (depth,), width, adaptive=adaptive),
        **_norm(f"pre_ffw_norm{suffix}", (depth,), width, adaptive=adaptive),
    }
    last = _norm(f"final_norm{suffix}", (), width, adaptive=adaptive)
    return {**_under("layers", layers), **last}


def _norm(path: str, stack: tuple[int, ...], width: int, *, adaptive: bool) -> dict[str, Leaf]:
    if not adaptive:
        return {f"{path}/scale": Leaf((*stack, width))}
    return {
        f"{path}/Dense_0/kernel": Leaf((*stack, width, 3 * width)),
        f"{path}/Dense_0/bias": Leaf((*stack, 3 * width)),
    }


def _vision(config: VLAConfig) -> dict[str, Leaf]:
    size = config.vision
    width, patch = size.width, size.patch
    block = {
        **_layer_norm("LayerNorm_0", (size.depth,), width),
        **_layer_norm("LayerNorm_1", (size.depth,), width),
        **_vision_attention(config),
        **_vision_mlp(config),
    }
    return {
        "embedding/kernel": Leaf((patch, patch, 3, width), lecun_normal()),
        "embedding/bias": Leaf((width,)),
        "pos_embedding": Leaf((1, size.tokens, width), normal(width**-0.5)),
        **_under("Transformer/encoderblock", block),
        **_layer_norm("Transformer/encoder_norm", (), width),
        **_linear("head", width, config.vlm.width),
    }


def _vision_attention(config: VLAConfig) -> dict[str, Leaf]:
    depth, width, heads = config.vision.depth, config.vision.width, config.vision.heads
    path, dim = "MultiHeadDotProductAttention_0", width // heads
    inwards = xavier_uniform(in_axis=1, out_axis=(2, 3), batch_axis=(0,))
    outwards = xavier_uniform(in_axis=(1, 2), out_axis=3, batch_axis=(0,))
    found = {
        f"{path}/out/kernel": Leaf((depth, heads, dim, width), outwards),
        f"{path}/out/bias": Leaf((depth, width)),
    }
    for name in ("query", "key", "value"):
        found[f"{path}/{name}/kernel"] = Leaf((depth, width, heads, dim), inwards)
        found[f"{path}/{name}/bias"] = Leaf((depth, heads, dim))
    return found


def _vision_mlp(config: VLAConfig) -> dict[str, Leaf]:
    depth, width, mlp_dim = config.vision.depth, config.vision.width, config.vision.mlp_dim
    kernel, bias = xavier_uniform(batch_axis=(0,)), normal(1e-6)
    return {
        "MlpBlock_0/Dense_0/kernel": Leaf((depth, width, mlp_dim), kernel),
        "MlpBlock_0/Dense_0/bias": Leaf((depth, mlp_dim), bias),
        "MlpBlock_0/Dense_1/kernel": Leaf((depth, mlp_dim, width), kernel),
        "MlpBlock_0/Dense_1/bias": Leaf((depth, width), bias),
    }


def _layer_norm(path: str, stack: tuple[int, ...], width: int) -> dict[str, Leaf]:
    shape = (*stack, width)
    return {f"{path}/scale": Leaf(shape, jax.nn.initializers.ones), f"{path}/bias": Leaf(shape)}
