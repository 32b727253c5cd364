"""What agents of action chunks share: the flow's hyper-parameters."""

from dataclasses import dataclass

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
