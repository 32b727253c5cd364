"""The multilayer perceptron under every actor and critic, laid out as SERL's.

Block order is Dense (xavier-uniform, zero bias) -> [LayerNorm] -> activation, for every hidden
layer, followed by a linear layer (serl_launcher `networks/mlp.py` with `activate_final=True`
and the head on top).
"""

from collections.abc import Callable
from typing import Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Activation: TypeAlias = Literal["tanh", "relu", "swish"]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "swish": jax.nn.swish,
}


class MLP(nn.Module):
    """Hidden blocks and a linear head.

    Fields: hidden, widths of the hidden layers; out, width of the head; activation, a key of
    `ACTIVATIONS`; layer_norm, whether each hidden block is normalised before its activation.
    """

    hidden: tuple[int, ...]
    out: int
    activation: Activation = "tanh"
    layer_norm: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*lead D"]) -> Float[Array, "*lead out"]:
        """Map inputs [..., D] to outputs [..., out]."""
        init = nn.initializers.xavier_uniform()
        for i, width in enumerate(self.hidden):
            x = nn.Dense(width, kernel_init=init, name=f"dense_{i}")(x)
            if self.layer_norm:
                x = nn.LayerNorm(name=f"norm_{i}")(x)
            x = ACTIVATIONS[self.activation](x)
        return nn.Dense(self.out, kernel_init=init, name="head")(x)
