"""The seam between the host loop and every way to train."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Array, Float

from mjx_serl.data.replay import ReplayState
from mjx_serl.envs.observation import Observer
from mjx_serl.nets.mlp import ComputeDtype
from mjx_serl.registry import Registry
from mjx_serl.training.state import PolicyParams, TrainState
from mjx_serl.types import Choice, Metrics, Obs, PRNGKey


@dataclass(frozen=True)
class Share:
    """A part of the training state, or of what an epoch makes, whose size an option decides.

    Attributes:
        name: what it holds.
        nbytes: its size now [bytes], which grows in proportion to the option's value.
        option: on the command line.
        value: of the option now.
        least: smallest value that still trains.
        stored: it is part of the state.
    """

    name: str
    nbytes: int
    option: str
    value: int
    least: int
    stored: bool = True


@dataclass(frozen=True)
class Ring:
    """A replay ring of a training state, to be looked at.

    Attributes:
        name: what is in it.
        rows: the ring.
        q: of the critics' mean for observations [B, ...] and choices [B, H * A], as they are
            learned from but not scaled; it returns [B], or None where there is no critic.
    """

    name: str
    rows: ReplayState
    q: Callable[[Obs, Float[Array, "B HA"]], Float[Array, " B"] | None]


class Trainer(Protocol):
    """Pure functions over TrainState, and what the host must know of them.

    One that keeps replay rings has a method `rings(state)`, which returns each as a `Ring`. One
    that learns something before its first epoch has a method `teach(state, key, tell)`, which
    returns the state after it and tells how far it is.
    """

    @property
    def traceable(self) -> bool:
        """Whether `epoch` can be one compiled function."""
        ...

    @property
    def env_steps_per_epoch(self) -> int:
        """Control steps of all worlds in one epoch."""
        ...

    @property
    def updates_per_epoch(self) -> int:
        """Gradient steps in one epoch."""
        ...

    def state_shapes(self) -> TrainState:
        """Return the state as shapes."""
        ...

    def init(self, key: PRNGKey) -> TrainState:
        """Return the state before the first epoch, demonstrations included.

        It plays and compiles what it needs, so it is called, not traced. `key` is that of the
        run; evaluations draw from other streams of it.
        """
        ...

    def epoch(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """Advance the run; the one function to compile and donate to."""
        ...

    def policy_params(self, state: TrainState) -> PolicyParams:
        """Return what `choose` reads: no critics, no optimisers, no data."""
        ...

    def choose(
        self, params: PolicyParams, obs: Obs, key: PRNGKey, *, deterministic: bool
    ) -> Choice:
        """Choose actions for raw observations [N, ...]."""
        ...

    @property
    def horizon(self) -> int:
        """Actions of one choice [control steps]: all are played before the next is made."""
        ...

    @property
    def compute_dtype(self) -> ComputeDtype:
        """What the products of the networks are made of."""
        ...

    def exact(self) -> "Trainer":
        """Return the same trainer whose `choose` computes in float32, as a robot does."""
        ...

    def memory(self, state: TrainState) -> Sequence[Share]:
        """Return the parts of a state (arrays or shapes) that options shrink, largest first."""
        ...


class MethodConfig(Protocol):
    """A way to train with its hyper-parameters: a frozen, registered dataclass.

    One that has a method `cautions(observer)` returns lines to warn of before training. One that
    has a mapping `refused` says there why options that begin so, of other methods, are none of its.
    """

    def check(self, *, num_envs: int) -> None:
        """Raise ValueError, with what is allowed, for options that do not go together."""
        ...

    def label(self, *, images: bool) -> str:
        """Return what the learner is called in folders and tables."""
        ...

    def build(self, observer: Observer, *, num_envs: int) -> Trainer:
        """Return the trainer of an observer's task."""
        ...


# Config classes by name; `--method NAME` starts from one's defaults.
METHODS: Registry[type[MethodConfig]] = Registry("method", found_in="mjx_serl.training")
