"""What agents of action chunks share: the flow's hyper-parameters, the scale of actions."""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from mjx_serl.nets.flow import Flow
from mjx_serl.nets.mlp import MLP, Activation, ComputeDtype
from scenes.contract.ranges import ranged


@dataclass(frozen=True, kw_only=True)
class FlowNetConfig:
    """A flow policy; the paper's is (512, 512, 512, 512) and 10 steps (arXiv 2507.07969, table 5).

    Attributes:
        hidden: widths of the hidden layers [units].
        activation: "tanh", "relu" or "swish", after each hidden layer.
        layer_norm: normalise each hidden layer before its activation.
        steps: of Euler's method from noise to actions.
        compute_dtype: as of `SACConfig`.
    """

    hidden: tuple[int, ...] = ranged((256, 256, 256), least=1, filled=True)
    activation: Activation = "swish"
    layer_norm: bool = False
    steps: int = ranged(10, least=1)
    compute_dtype: ComputeDtype = "float32"

    def build(self, dim: int) -> Flow:
        """Return the flow over vectors of `dim` entries."""
        net = MLP(
            self.hidden,
            dim,
            activation=self.activation,
            layer_norm=self.layer_norm,
            compute_dtype=self.compute_dtype,
        )
        return Flow(net, dim, self.steps)


@struct.dataclass
class ActionScale:
    """Mean and spread of actions, so that a flow sees numbers of the order of one."""

    mean: Float[Array, " A"]
    std: Float[Array, " A"]

    @staticmethod
    def unit(dim: int) -> "ActionScale":
        """Actions as they are."""
        return ActionScale(jnp.zeros(dim), jnp.ones(dim))

    @staticmethod
    def of(actions: Float[Array, "*lead A"], valid: Bool[Array, "*lead"]) -> "ActionScale":
        """Of the actions where `valid`; (a - mean) / (std + 1e-6) as in openpi's z-score.

        An entry that never moves stays where it was shown.
        """
        keep, count = valid[..., None], jnp.maximum(jnp.sum(valid), 1)
        axes = tuple(range(valid.ndim))
        mean = jnp.sum(jnp.where(keep, actions, 0.0), axes) / count
        variance = jnp.sum(jnp.where(keep, jnp.square(actions - mean), 0.0), axes) / count
        return ActionScale(mean, jnp.sqrt(variance) + 1e-6)

    def normalised(self, actions: Float[Array, "*lead A"]) -> Float[Array, "*lead A"]:
        """What the flow sees."""
        return (actions - self.mean) / self.std

    def actions(self, normalised: Float[Array, "*lead A"]) -> Float[Array, "*lead A"]:
        """What the flow says as actions."""
        return normalised * self.std + self.mean
