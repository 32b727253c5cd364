"""The image encoder: SigLIP's ViT (arXiv 2303.15343), every patch's output as a token.

Sizes and order as openpi's, which took them from big_vision: patches and their places in float32,
pre-norm layers, tanh-approximated GELU, a last norm and a linear head to the language's width.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mjx_serl.devices import has_split, whole, with_whole
from mjx_serl.nets.vla.config import VLAConfig
from mjx_serl.types import PyTree

_EPS = 1e-6  # of the norms

Patches = Float[Array, "N P W"]


def encode_pictures(
    config: VLAConfig, params: PyTree, pictures: Float[Array, "N S S 3"]
) -> Float[Array, "N P D"]:
    """Return the tokens of pictures in [-1, 1], in `compute_dtype`."""
    cut = partial(_patches, edge=config.vision.patch)
    x = with_whole(cut, params["embedding"], pictures) + whole(params["pos_embedding"])
    x = x.astype(config.compute_dtype)

    def layer(x: Patches, weights: PyTree) -> tuple[Patches, None]:
        return _layer(whole(weights), x), None

    layers = params["Transformer"]["encoderblock"]
    again = config.remat or has_split(layers)
    body = jax.checkpoint(layer, prevent_cse=False) if again else layer
    x, _ = jax.lax.scan(body, x, layers)
    norm = whole(params["Transformer"]["encoder_norm"])
    return dense(params["head"], _layer_norm(norm, x))


def dense(weights: PyTree, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
    """Return x @ kernel + bias in the type of x."""
    return with_whole(_dense, weights, x)


def _dense(weights: PyTree, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
    return x @ weights["kernel"].astype(x.dtype) + weights["bias"].astype(x.dtype)


def _patches(weights: PyTree, pictures: Float[Array, "N S S 3"], *, edge: int) -> Patches:
    """A convolution whose stride is its kernel's size, as one product."""
    count, size = pictures.shape[0], pictures.shape[1] // edge
    squares = pictures.reshape(count, size, edge, size, edge, 3)
    x = jnp.einsum("nhpwqc,pqcd->nhwd", squares, weights["kernel"]) + weights["bias"]
    return x.reshape(count, size * size, -1)


def _layer(weights: PyTree, x: Patches) -> Patches:
    x = x + _attend(
        weights["MultiHeadDotProductAttention_0"], _layer_norm(weights["LayerNorm_0"], x)
    )
    mlp = weights["MlpBlock_0"]
    hidden = jax.nn.gelu(dense(mlp["Dense_0"], _layer_norm(weights["LayerNorm_1"], x)))
    return x + dense(mlp["Dense_1"], hidden)


def _attend(weights: PyTree, x: Patches) -> Patches:
    def project(name: str) -> Float[Array, "N P H K"]:
        kernel, bias = (weights[name][part].astype(x.dtype) for part in ("kernel", "bias"))
        return jnp.einsum("npw,whk->nphk", x, kernel) + bias

    seen = jax.nn.dot_product_attention(project("query"), project("key"), project("value"))
    kernel, bias = (weights["out"][part].astype(x.dtype) for part in ("kernel", "bias"))
    return jnp.einsum("nphk,hkw->npw", seen, kernel) + bias


def _layer_norm(weights: PyTree, x: Patches) -> Patches:
    """Layer norm (arXiv 1607.06450) in float32."""
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    var = jnp.var(wide, axis=-1, keepdims=True)
    return ((wide - mean) * jax.lax.rsqrt(var + _EPS) * weights["scale"] + weights["bias"]).astype(
        x.dtype
    )
