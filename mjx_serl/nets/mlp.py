"""The multilayer perceptron under every actor and critic, laid out as SERL's.

Block order is Dense (xavier-uniform, zero bias) -> [Dropout] -> [LayerNorm] -> activation, for
every hidden layer, followed by a linear layer (serl_launcher `networks/mlp.py` with
`activate_final=True` and the head on top). An ensemble is the same network with a leading member
axis on parameters and outputs: batched products written out, because `vmap` would transpose every
first layer.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, TypeAlias, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mjx_serl import devices
from mjx_serl.types import PRNGKey, PyTree

Activation: TypeAlias = Literal["tanh", "relu", "swish"]
Rows: TypeAlias = Float[Array, "*members B H"]
PerUnit: TypeAlias = Float[Array, "*members H"]
ComputeDtype: TypeAlias = Literal["float32", "bfloat16"]

LAYER_NORM_EPS = 1e-6  # flax's default, and so SERL's
EMBEDDING = 64  # units for proprioception beside image features, as SERL and HIL-SERL


class MLP(nn.Module):
    """Hidden blocks and a linear head.

    Attributes:
        hidden: widths of the hidden layers [units].
        out: width of the head [units]; None for no head.
        activation: a key of `ACTIVATIONS`.
        layer_norm: whether each hidden block is normalised before its activation.
        compute_dtype: a key of `COMPUTE_DTYPES`: of the hidden layers' products.
        members: size of the ensemble; None for one plain network.
        embedded: first and last + 1 of the input columns that pass a block of `EMBEDDING` units
            first, so that a few joint angles are not lost among hundreds of image features.
        dropout: share of the hidden blocks' sums that is set to 0 where there is a key of that
            name, the rest scaled up [1].
    """

    hidden: tuple[int, ...]
    out: int | None
    activation: Activation = "tanh"
    layer_norm: bool = True
    compute_dtype: ComputeDtype = "float32"
    members: int | None = None
    embedded: tuple[int, int] | None = None
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "*members B out"]:
        """Map inputs [B, D] to outputs [B, out], or [members, B, out] of an ensemble."""
        lead = () if self.members is None else (self.members,)
        x = jnp.broadcast_to(x, lead + x.shape)
        if self.embedded is not None:
            before, some, after = jnp.split(x, self.embedded, axis=-1)
            x = jnp.concatenate([before, self._block(some, "embed", EMBEDDING), after], axis=-1)
        for i, width in enumerate(self.hidden):
            x = self._block(x, f"{i}", width, dropout=self.dropout)
        if self.out is None:
            return x
        # The head is stored [out, H]: so its gradient is a row-major product, 3x as fast.
        head = self._kernel("head", (self.out, x.shape[-1]), lead)
        return (
            jnp.einsum("...bh,...oh->...bo", x, head)
            + self._vector("head_bias", x, self.out)[..., None, :]
        )

    def _block(self, x: Rows, name: str, width: int, *, dropout: float = 0.0) -> Rows:
        kernel = self._kernel(f"dense_{name}", (x.shape[-1], width), x.shape[:-2])
        z = COMPUTE_DTYPES[self.compute_dtype](x, kernel)
        bias = self._vector(f"dense_{name}_bias", x, width)
        if dropout and self.has_rng("dropout"):
            # Before the norm, as SERL's.
            z = dropped(self.make_rng("dropout"), z + bias[..., None, :], dropout)
            bias = jnp.zeros_like(bias)
        if not self.layer_norm:
            return ACTIVATIONS[self.activation](z + bias[..., None, :])
        scale = self._vector(f"norm_{name}_scale", x, width, one=True)
        shift = self._vector(f"norm_{name}_bias", x, width)
        return norm_activate(self.activation, z, bias, scale, shift)

    def _kernel(self, name: str, shape: tuple[int, int], lead: tuple[int, ...]) -> Array:
        members = tuple(range(len(lead)))
        init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", batch_axis=members)
        return self.param(name, init, (*lead, *shape))

    def _vector(self, name: str, x: Rows, width: int, *, one: bool = False) -> PerUnit:
        init = nn.initializers.ones if one else nn.initializers.zeros
        return self.param(name, init, (*x.shape[:-2], width))


def forward(
    net: MLP, params: PyTree, x: Float[Array, "B D"], *, dropout_key: PRNGKey | None = None
) -> Rows:
    """Return `net.apply(params, x)`, typed; with a key what `MLP.dropout` says is dropped."""
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    return cast(Array, devices.with_whole(partial(net.apply, rngs=rngs), params, x))


def dropped(key: PRNGKey, x: Rows, rate: float) -> Rows:
    """Set a share `rate` of the entries to 0 and scale up the rest (arXiv 1207.0580)."""
    kept = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(kept, x / (1.0 - rate), 0.0)


@jax.custom_vjp
def bfloat16_product(x: Rows, kernel: Rows) -> Rows:
    """Return x @ kernel, both rounded to bfloat16 and summed in float32, like its gradients.

    Parameters, activations and optimiser stay float32 (mixed precision, arXiv 1710.03740). On a
    CPU that multiplies bfloat16 (AVX512_BF16: AMD Zen 4, Intel Cooper Lake, or newer) such a
    product runs at twice the rate; on an older one it is slower than float32.
    """
    return _contract(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), -1, -2)


def _product_forward(x: Rows, kernel: Rows) -> tuple[Rows, tuple[Rows, Rows]]:
    saved = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    return _contract(*saved, -1, -2), saved


def _product_backward(saved: tuple[Rows, Rows], dz: Rows) -> tuple[Rows, Rows]:
    x, kernel = saved
    # Rounded by hand: the automatic transpose would mix types, and so multiply in float32.
    dz = dz.astype(jnp.bfloat16)
    return _contract(dz, kernel, -1, -1), _contract(x, dz, -2, -2)


bfloat16_product.defvjp(_product_forward, _product_backward)


def _contract(a: Rows, b: Rows, axis_a: int, axis_b: int) -> Rows:
    members = tuple(range(a.ndim - 2))
    axes = ((a.ndim + axis_a,), (b.ndim + axis_b,)), (members, members)
    return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


COMPUTE_DTYPES: dict[str, Callable[[Rows, Rows], Rows]] = {
    "float32": jnp.matmul,
    "bfloat16": bfloat16_product,
}

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "swish": jax.nn.swish,
}

# d act(u) / du from the input u and the output y, whichever is the cheaper.
_SLOPES: dict[str, Callable[[Array, Array], Array]] = {
    "tanh": lambda u, y: 1.0 - y * y,
    "relu": lambda u, y: (y > 0.0).astype(y.dtype),
    "swish": lambda u, y: y + jax.nn.sigmoid(u) * (1.0 - y),
}


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def norm_activate(
    activation: Activation, z: Rows, bias: PerUnit, scale: PerUnit, shift: PerUnit
) -> Rows:
    """Return act(scale * xhat + shift) with xhat = LayerNorm over H of z + bias (arXiv 1607.06450).

    The derivative is written by hand so that its sums are matrix products with ones: XLA on a
    CPU adds up floats nearly one by one, a product runs at full vector width (197 -> 113 us for
    the block forward and backward on [2, 256, 256], two cores).
    """
    return _norm_forward(activation, z, bias, scale, shift)[0]


def _norm_forward(
    activation: Activation, z: Rows, bias: PerUnit, scale: PerUnit, shift: PerUnit
) -> tuple[Rows, tuple[Array, ...]]:
    h = z + bias[..., None, :]
    centred = h - _row_mean(h)
    rstd = jax.lax.rsqrt(_row_mean(centred * centred) + LAYER_NORM_EPS)
    xhat = centred * rstd
    y = ACTIVATIONS[activation](xhat * scale[..., None, :] + shift[..., None, :])
    return y, (xhat, rstd, y, scale, shift)


def _norm_backward(
    activation: Activation, saved: tuple[Array, ...], dy: Rows
) -> tuple[Rows, PerUnit, PerUnit, PerUnit]:
    xhat, rstd, y, scale, shift = saved
    scale = scale[..., None, :]
    du = dy * _SLOPES[activation](xhat * scale + shift[..., None, :], y)
    du_xhat = du * xhat
    mean_d, mean_dx = _row_mean(du * scale), _row_mean(du_xhat * scale)
    dz = rstd * (du * scale - mean_d - xhat * mean_dx)
    return dz, _column_sum(dz), _column_sum(du_xhat), _column_sum(du)


norm_activate.defvjp(_norm_forward, _norm_backward)


def _row_mean(x: Rows) -> Float[Array, "*members B 1"]:
    width = x.shape[-1]
    # HIGHEST: a mean must not be rounded to TF32 where products are.
    ones = jnp.full((width, 1), 1.0 / width, x.dtype)
    return jnp.matmul(x, ones, precision=jax.lax.Precision.HIGHEST)


def _column_sum(x: Rows) -> PerUnit:
    # Eight equal rows: a single one would be fused into a scalar loop, four times as slow.
    ones = jnp.ones((*x.shape[:-2], 8, x.shape[-2]), x.dtype)
    return jnp.matmul(ones, x, precision=jax.lax.Precision.HIGHEST)[..., 0, :]
