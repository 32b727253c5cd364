"""What a training loop may ask of an agent, and nothing more.

An agent is a frozen, hashable object; everything that changes is in its AgentState. Subclass
`OffPolicyAgent` or `OnPolicyAgent` and what has a body here may be left as it is.
"""

from typing import Any, Protocol, Self, TypeAlias

from jaxtyping import Array, Bool, Float, Shaped

from mjx_serl.nets.mlp import ComputeDtype
from mjx_serl.registry import Registry
from mjx_serl.types import (
    Batch,
    Choice,
    Metrics,
    Obs,
    PRNGKey,
    PyTree,
    RolloutBatch,
    Transition,
)
from scenes.contract.errors import InputError
from scenes.contract.specs import ActionSpec, ObsSpec

AgentState: TypeAlias = Any  # a pytree of the agent's own making


class Agent(Protocol):
    """Chooses actions for what an ObsSpec and an ActionSpec describe."""

    def init(self, key: PRNGKey, obs: ObsSpec, action: ActionSpec) -> AgentState:
        """Draw parameters.

        Raises ValueError where the agent cannot read such observations or give such actions.
        """
        ...

    def act(
        self, state: AgentState, obs: Obs, key: PRNGKey, *, deterministic: bool = False
    ) -> Choice:
        """Choose actions in [-1, 1] for observations with leading axis [N]."""
        ...

    def explore(self, state: AgentState, obs: Obs, noise: Float[Array, "N H A"]) -> Choice:
        """Choose as `act` does in training, with standard normal noise given instead of a key.

        For an actor elsewhere, which has no JAX. Raises InputError where the agent's noise is of
        another kind.
        """
        del state, obs, noise
        raise InputError(
            f"{type(self).__name__} does not explore by noise that an actor elsewhere could draw; "
            "allowed: sac, hybrid, flow_bc"
        )

    def acting(self, state: AgentState) -> PyTree:
        """The part of the state that `act` reads, for a bundle or an actor elsewhere.

        It has the structure of the state, with None for what is left out.
        """
        return state

    def learned(self, state: AgentState) -> PyTree:
        """The parameters in the state, for another run to begin with (`--init`).

        It has the structure of the state, with None for optimisers and counters.
        """
        return self.acting(state)

    def begun(self, state: AgentState) -> AgentState:
        """The state after parameters of another run have taken the place of its `learned` ones."""
        return state

    @property
    def horizon(self) -> int:
        """Actions of one choice [control steps]: all are played before the next is made."""
        return 1

    @property
    def compute_dtype(self) -> ComputeDtype:
        """What the products of its networks are made of."""
        return "float32"

    def exact(self) -> Self:
        """The same agent with float32 products, as a robot computes them."""
        return self


class OffPolicyAgent(Agent, Protocol):
    """Learns from transitions that it need not have chosen itself."""

    @property
    def utd_ratio(self) -> int:
        """Critic updates made by one call of `update`."""
        return 1

    @property
    def n_step(self) -> int:
        """Rows that the reward of a batch sums up; at least `horizon`."""
        return 1

    @property
    def gamma(self) -> float:
        """Discount per control step, which that sum uses."""
        return 0.99

    def beside(self, steps: Transition, action: ActionSpec) -> dict[str, Shaped[Array, "..."]]:
        """What is stored beside transitions [*lead, ...] as they were observed, by name.

        A batch has it in its extras.
        """
        del steps, action
        return {}

    def shown(self, state: AgentState, demos: Transition) -> AgentState:
        """Return a fresh state that knows demonstrations [T, M, ...]; most need nothing of them."""
        del demos
        return state

    def q_values(
        self, state: AgentState, obs: Obs, action: Float[Array, "B HA"]
    ) -> Float[Array, "E B"] | None:
        """Return what each of its critics thinks of choices; None where it has none."""
        del state, obs, action
        return None

    def update(self, state: AgentState, batch: Batch, key: PRNGKey) -> tuple[AgentState, Metrics]:
        """Learn from a batch with leading axis [utd_ratio * B].

        Row i goes to minibatch i mod utd_ratio, so parts of a mixture may lie one after another.
        """
        ...


class RolloutAgent(Agent, Protocol):
    """Learns from what it has just done itself, and forgets it."""

    @property
    def gamma(self) -> float:
        """Discount per row of a rollout: a control step, or a choice of several."""
        return 0.99

    @property
    def gae_lambda(self) -> float:
        """How far advantages look beyond the value network (arXiv 1506.02438)."""
        return 0.95

    @property
    def reward_scale(self) -> float:
        """What rewards are multiplied by before anything is learned from them."""
        return 1.0

    def value(self, state: AgentState, obs: Obs) -> Float[Array, " B"]:
        """Return the scaled, discounted return that is expected from observations [B, ...]."""
        ...

    def improve(
        self, state: AgentState, batch: RolloutBatch
    ) -> tuple[AgentState, Bool[Array, ""], Metrics]:
        """Take one gradient step on a minibatch.

        The second is whether it has moved far enough from the policy that sampled: no step was
        taken, and none should be until the next rollout.
        """
        ...


class OnPolicyAgent(RolloutAgent, Protocol):
    """Learns from single actions, of which it is given the noise."""

    def sample(self, state: AgentState, obs: Obs, noise: Float[Array, "N A"]) -> Choice:
        """Choose as `act` does, with standard normal noise given instead of a key.

        All that `improve` must know of it is in the extras.
        """
        ...


class ChunkAgent(OffPolicyAgent, RolloutAgent, Protocol):
    """Learns action chunks by imitation, then from those that it has just played itself.

    `update` is a step of imitation, on chunks of `n_step` actions; `improve` one of PPO, whose
    rows, and so `gamma`, are choices. What the second needs beside parameters is there from
    `taught` on.
    """

    @property
    def least_success(self) -> float:
        """Success rate that the imitation must reach before rollouts are learned from; 0 none."""
        return 0.0

    def pupil(self, state: AgentState) -> AgentState:
        """The state at the beginning of imitation."""
        ...

    def taught(self, state: AgentState) -> AgentState:
        """The state at its end, from which `improve` goes on."""
        ...

    def draw(self, state: AgentState, obs: Obs, key: PRNGKey) -> Choice:
        """Choose at random, as in rollouts; what `improve` must know of it is in the extras."""
        ...


def require_off_policy(agent: Agent, method: str) -> None:
    """Raise InputError for an agent that does not learn from batches that others made."""
    if not hasattr(agent, "update"):
        raise InputError(
            f"--method {method} with agent {type(agent).__name__}, which learns from its own "
            "rollouts alone, allowed: --method on_policy; or another agent, for example sac"
        )


def require_on_policy(agent: Agent, method: str) -> None:
    """Raise InputError for an agent that does not learn from its own rollouts, step by step."""
    if hasattr(agent, "draw"):
        raise InputError(
            f"--method {method} with agent {type(agent).__name__}, which learns from chunks, "
            "allowed: --agent ppo; or --method on_policy_chunks"
        )
    if not hasattr(agent, "improve"):
        raise InputError(
            f"--method {method} with agent {type(agent).__name__}, which learns from stored "
            "batches, allowed: --agent ppo; or another method, for example off_policy"
        )


def require_chunks(agent: Agent, method: str) -> None:
    """Raise InputError for an agent that does not learn from its own rollouts of chunks."""
    if not hasattr(agent, "draw"):
        raise InputError(
            f"--method {method} with agent {type(agent).__name__}, which has no density of a "
            "chunk, allowed: --agent flow_ppo"
        )


class AgentConfig(Protocol):
    """Hyper-parameters: a frozen dataclass that is registered under the agent's name."""

    def label(self, *, images: bool, demos: bool) -> str:
        """Return what the learner is called in folders and tables."""
        del images, demos
        return AGENTS.name_of(type(self))

    def build(self) -> Agent:
        """Return the agent; raises ValueError on a field outside its range."""
        ...


# Config classes by name; `--agent NAME` starts from one's defaults.
AGENTS: Registry[type[AgentConfig]] = Registry("agent", found_in="mjx_serl.agents")
