"""A Gemma transformer (arXiv 2403.08295) of two experts with one attention, as openpi's.

Every token passes the weights of its expert, and attends to tokens of both. Keys and values of a
pass are returned, so that another one may attend to them without computing them again.
"""

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mjx_serl.devices import has_split, whole, with_whole
from mjx_serl.nets.vla.config import VLAConfig
from mjx_serl.nets.vla.siglip import dense
from mjx_serl.types import PyTree

_EPS = 1e-6  # of the norms
_MAX_WAVELENGTH = 10_000.0  # of rotary embeddings

Tokens: TypeAlias = Float[Array, "B T W"]
Heads: TypeAlias = Float[Array, "B T H K"]


class KeyValues(NamedTuple):
    """Keys and values of the tokens of a pass, in all layers."""

    keys: Float[Array, "layers B T H K"]
    values: Float[Array, "layers B T H K"]


class Stream(NamedTuple):
    """Tokens of one expert.

    Attributes:
        tokens: to transform.
        suffix: ends the names of its weights.
        condition: what adaptive norms are told; None where the norms are not.
    """

    tokens: Tokens
    suffix: str = ""
    condition: Float[Array, "B W"] | None = None


def embed_words(params: PyTree, words: Int[Array, "B L"]) -> Float[Array, "B L W"]:
    """Return the tokens of words, sqrt(width) times their embedding, in float32."""

    def looked_up(table: Float[Array, "V W"], words: Int[Array, "B L"]) -> Float[Array, "B L W"]:
        return table[words] * jnp.sqrt(table.shape[-1]).astype(table.dtype)

    return with_whole(looked_up, params["embedder"]["input_embedding"], words)


def transform(
    config: VLAConfig,
    params: PyTree,
    streams: tuple[Stream, ...],
    *,
    mask: Bool[Array, "B T S"],
    positions: Int[Array, "B T"],
    cache: KeyValues | None = None,
) -> tuple[list[Tokens], KeyValues]:
    """Pass streams, one after the other in a sequence of T tokens, through all layers.

    Args:
        config: sizes.
        params: of the transformer.
        streams: the tokens, by expert.
        mask: which of S keys a token attends to; the cache's come first.
        positions: of the tokens in the sequence.
        cache: keys and values of tokens before.

    Returns:
        The normed output of each stream in `compute_dtype`, and the keys and values of its tokens.
    """
    stacks = tuple(_weights(params["layers"], stream.suffix) for stream in streams)
    conditions = [stream.condition for stream in streams]

    def layer(xs: list[Tokens], stack: PyTree) -> tuple[list[Tokens], KeyValues]:
        weights, before = stack
        # Layer by layer: of split parameters a device holds one layer's at a time.
        return _layer(whole(weights), xs, conditions, mask, positions, before)

    again = config.remat or has_split(stacks)
    body = jax.checkpoint(layer, prevent_cse=False) if again else layer
    xs = [stream.tokens.astype(config.compute_dtype) for stream in streams]
    xs, made = jax.lax.scan(body, xs, (stacks, cache))
    norms = [params[f"final_norm{stream.suffix}"] for stream in streams]
    ends = zip(norms, xs, conditions, strict=True)
    return [with_whole(_norm, *parts)[0] for parts in ends], made


def _weights(layers: PyTree, suffix: str) -> PyTree:
    """Return the weights of one expert by names that do not tell which."""
    attention = layers["attn"]
    return {
        "query": attention[f"q_einsum{suffix}"]["w"],
        "key_value": attention[f"kv_einsum{suffix}"]["w"],
        "out": attention[f"attn_vec_einsum{suffix}"]["w"],
        "mlp": layers[f"mlp{suffix}"],
        "attention_norm": layers[f"pre_attention_norm{suffix}"],
        "mlp_norm": layers[f"pre_ffw_norm{suffix}"],
    }


def _layer(
    weights: tuple[PyTree, ...],
    xs: list[Tokens],
    conditions: list[Float[Array, "B W"] | None],
    mask: Bool[Array, "B T S"],
    positions: Int[Array, "B T"],
    before: KeyValues | None,
) -> tuple[list[Tokens], KeyValues]:
    streams = list(zip(weights, xs, conditions, strict=True))
    normed, gates = zip(*(_norm(w["attention_norm"], x, c) for w, x, c in streams), strict=True)
    seen, made = _attend(weights, normed, mask, positions, before)
    xs = [_gated(*parts) for parts in zip(xs, seen, gates, strict=True)]
    out = []
    for w, x, condition in zip(weights, xs, conditions, strict=True):
        inner, gate = _norm(w["mlp_norm"], x, condition)
        out.append(_gated(x, _feed_forward(w["mlp"], inner), gate))
    return out, made


def _norm(
    weights: PyTree, x: Tokens, condition: Float[Array, "B W"] | None
) -> tuple[Tokens, Float[Array, "B 1 W"] | None]:
    """RMS norm (arXiv 1910.07467) in float32, and the gate of what follows where it is adaptive.

    Scale, shift and gate of an adaptive norm are linear in the condition, as in DiT
    (arXiv 2212.09748, section 3.2).
    """
    wide = x.astype(jnp.float32)
    unit = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + _EPS)
    if condition is None:
        return (unit * (1.0 + weights["scale"])).astype(x.dtype), None
    told = dense(weights["Dense_0"], condition.astype(x.dtype))[:, None]
    scale, shift, gate = jnp.split(told, 3, axis=-1)
    return (unit * (1.0 + scale) + shift).astype(x.dtype), gate


def _gated(x: Tokens, y: Tokens, gate: Float[Array, "B 1 W"] | None) -> Tokens:
    return x + (y if gate is None else y * gate)


def _attend(
    weights: tuple[PyTree, ...],
    xs: tuple[Tokens, ...],
    mask: Bool[Array, "B T S"],
    positions: Int[Array, "B T"],
    before: KeyValues | None,
) -> tuple[list[Tokens], KeyValues]:
    """Attention over all streams and what came before, with one key for several queries."""
    pairs = list(zip(xs, weights, strict=True))
    queries = [_product("btw,hwk->bthk", x, w["query"]) for x, w in pairs]
    keys_values = [_product("btw,chwk->cbthk", x, w["key_value"]) for x, w in pairs]
    keys, values = jnp.concatenate(keys_values, axis=2)
    query = _rotated(jnp.concatenate(queries, axis=1), positions)
    made = KeyValues(_rotated(keys, positions), values)
    keys, values = made if before is None else _after(before, made)
    seen = jax.nn.dot_product_attention(query, keys, values, mask=mask[:, None])
    ends = [sum(x.shape[1] for x in xs[:i]) for i in range(1, len(xs))]
    parts = zip(jnp.split(seen, ends, axis=1), weights, strict=True)
    return [_product("bthk,hkw->btw", x, w["out"]) for x, w in parts], made


def _after(before: KeyValues, made: KeyValues) -> KeyValues:
    """Keys and values of one layer, the earlier ones first."""
    return KeyValues(*(jnp.concatenate(x, axis=1) for x in zip(before, made, strict=True)))


def _product(equation: str, x: Array, weight: Array) -> Array:
    return jnp.einsum(equation, x, weight.astype(x.dtype))


def _rotated(x: Heads, positions: Int[Array, "B T"]) -> Heads:
    """Rotary position embedding (arXiv 2104.09864): the halves of a head are a pair's parts."""
    half = x.shape[-1] // 2
    wavelengths = _MAX_WAVELENGTH ** (jnp.arange(half, dtype=jnp.float32) / half)
    angle = (positions[..., None] / wavelengths)[:, :, None]
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def _feed_forward(weights: PyTree, x: Tokens) -> Tokens:
    """GeGLU (arXiv 2002.05202)."""
    gate, up = (x @ weights["gating_einsum"][i].astype(x.dtype) for i in (0, 1))
    return (jax.nn.gelu(gate) * up) @ weights["linear"].astype(x.dtype)
