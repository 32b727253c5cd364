"""What a training loop may ask of an agent, and nothing more."""

from typing import Any, Protocol, TypeAlias

from jaxtyping import Array, Float

from mjx_serl.types import Batch, Metrics, Obs, ObsShapes, PRNGKey

AgentState: TypeAlias = Any  # a pytree of the agent's own making


class Agent(Protocol):
    """A frozen, hashable object; everything that changes is in its AgentState."""

    @property
    def utd_ratio(self) -> int:
        """Critic updates made by one call of `update`."""
        ...

    @property
    def n_step(self) -> int:
        """Rows that the reward of a batch sums up."""
        ...

    @property
    def gamma(self) -> float:
        """Discount per control step, which that sum uses."""
        ...

    def init(self, key: PRNGKey, obs_shapes: ObsShapes, action_dim: int) -> AgentState:
        """Draw parameters for single-sample observation shapes and actions [action_dim].

        Raises ValueError where the agent cannot read such observations.
        """
        ...

    def act(
        self, state: AgentState, obs: Obs, key: PRNGKey, *, deterministic: bool = False
    ) -> Float[Array, "N A"]:
        """Choose actions in [-1, 1] for observations with leading axis [N]."""
        ...

    def update(self, state: AgentState, batch: Batch, key: PRNGKey) -> tuple[AgentState, Metrics]:
        """Learn from a batch with leading axis [utd_ratio * B].

        Row i goes to minibatch i mod utd_ratio, so parts of a mixture may lie one after another.
        """
        ...
