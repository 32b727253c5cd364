"""Learning from what arms elsewhere do: epochs of updates on rows that are handed in.

It steps no world. Rings, mixture and updates are those of `OffPolicy`; the ring of what arms did
has one column, into which whole episodes are written one after the other, whichever arm they are
of. What a person did on an arm is drawn with the demonstrations too, as in HIL-SERL.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from mjx_serl.data.replay import ReplayBuffer, ReplayState
from mjx_serl.envs.observation import Observer, encoded
from mjx_serl.training.evaluate import TRAIN
from mjx_serl.training.off_policy import (
    DEMOS,
    ONLINE,
    OffPolicy,
    Source,
    least_rows,
    require_single_actions,
)
from mjx_serl.training.over_learner import OverLearner
from mjx_serl.training.scan import run_once
from mjx_serl.training.state import PolicyParams, TrainState, shapes_of, tree_bytes
from mjx_serl.training.trainer import Share
from mjx_serl.types import Choice, Metrics, Obs, PRNGKey, Transition
from scenes.contract.errors import InputError

BLOCK = 16  # rows that are written at once


def from_actors(trainer: OffPolicy) -> "FromActors":
    """The same learner, fed by arms elsewhere; InputError for what does not go with that."""
    require_single_actions(trainer.agent, "off_policy with --listen")
    seen, config = trainer.vec_env.observer, trainer.config
    hidden = [field.name for field in seen.stored_spec.fields if field.critic_only]
    for wrong, line in (
        (hidden, f"critics that see {', '.join(hidden)}, which no arm measures"),
        (trainer.vice is not None, "--vice.updates"),
        (trainer.takeover is not None, "--takeover.attend above 0: a person at the arm takes over"),
        (config.normalize_steps, f"loop.normalize_steps {config.normalize_steps}, allowed: 0"),
        (
            seen.judge is not None and (seen.judge.geometric or seen.judge.use == "termination"),
            "--reward.geometric or --reward.use termination, allowed: both, reward",
        ),
    ):
        if wrong:
            raise InputError(f"--listen with {line}")
    ring = ReplayBuffer(config.buffer_size, 1, seen.stack, seen.stacked)
    online = dataclasses.replace(trainer.sources[ONLINE], buffer=ring)
    sources: dict[str, Source] = dict(trainer.sources) | {ONLINE: online}
    learner = dataclasses.replace(trainer, sources=sources, interventions=(ONLINE,))
    return FromActors(learner)


@dataclasses.dataclass(frozen=True, eq=False)
class FromActors(OverLearner):
    """A Trainer whose TrainState has no worlds and whose rows come from elsewhere (`receive`)."""

    @property
    def env_steps_per_epoch(self) -> int:
        """Rows of the arms that pay for one epoch."""
        return self.learner.config.steps_per_epoch

    @property
    def first_rows(self) -> int:
        """Rows of the arms before the first epoch."""
        return max(self.learner.config.warmup_steps, 2 * least_rows(self.learner.agent.n_step))

    def state_shapes(self) -> TrainState:
        """The state as shapes."""
        demos = self.learner.demos
        if self.traceable or demos is None:
            shapes = None if demos is None else demos.shapes()
            return jax.eval_shape(self._first_state, jax.random.key(0), shapes)
        # Demonstrations that cannot be traced have to be made to be measured.
        return shapes_of(self.init(jax.random.key(0)))

    def init(self, key: PRNGKey) -> TrainState:
        """The state before the first epoch, demonstrations included."""
        demos = self.learner.demos
        rows = None if demos is None else demos.rows(key)
        return self.learner.pretrained(run_once(self._first_state, key, rows, traceable=True))

    def _first_state(self, key: PRNGKey, demos: Transition | None) -> TrainState:
        k_agent, key = jax.random.split(jax.random.fold_in(key, TRAIN))
        rows = {ONLINE: self.blank} if demos is None else {ONLINE: self.blank, DEMOS: demos}
        return self.learner.gather((), rows, k_agent, key)

    @property
    def blank(self) -> Transition:
        """Rows [`BLOCK`, 1] that nothing is learned from, as they are stored."""
        lead, env = (BLOCK, 1), self._observer.env
        no = jnp.zeros(lead, bool)
        spec = self._observer.stored_spec
        return Transition(
            obs={f.name: jnp.zeros((*lead, *f.shape), f.dtype) for f in spec.fields},
            action=jnp.zeros((*lead, env.action_dim)),
            reward=jnp.zeros(lead),
            terminated=no,
            truncated=~no,
            valid=no,
            expert=no,
        )

    def epoch(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """The updates that `env_steps_per_epoch` rows pay for; their metrics."""
        state, metrics = self._jit_learn(state)
        return state.replace(epoch=optax.safe_increment(state.epoch)), metrics

    def learn(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """The same without a count of the epoch; traced."""
        return self.learner.learn_stored(state, self.learner.config.steps_per_epoch)

    def size(self, state: TrainState) -> Int[Array, ""]:
        """Rows of the arms that can be learned from."""
        return self.learner.sources[ONLINE].buffer.size(state.data[ONLINE])

    def receive(self, state: TrainState, rows: Transition) -> TrainState:
        """A state that has stored rows [`BLOCK`, 1, ...] of an episode.

        They are observed as the contract says. All of an episode's are given one after the other,
        up to its end.

        Args:
            state: between two epochs; its ring is used up.
            rows: on the host; pictures uint8.
        """
        return state.replace(data=state.data | {ONLINE: self._jit_store(state.data[ONLINE], rows)})

    def explore(self, params: PolicyParams, obs: Obs, noise: Float[Array, "N H A"]) -> Choice:
        """Choose as in training, with its noise given."""
        return self.learner.explore(params, obs, noise)

    def memory(self, state: TrainState) -> Sequence[Share]:
        """Replay."""
        stored, rows = tree_bytes(state.data[ONLINE]), self.learner.config.buffer_size
        return [Share("replay buffer", stored, "--loop.buffer-size", rows, self.first_rows)]

    @property
    def _observer(self) -> Observer:
        return self.learner.vec_env.observer

    @cached_property
    def _jit_learn(self) -> Callable[[TrainState], tuple[TrainState, Metrics]]:
        # Compiled also where the renderer is not traced; inside another jit it is a plain call.
        def learn(state: TrainState) -> tuple[TrainState, Metrics]:
            state, metrics = self.learn(state)
            size = self.size(state).astype(jnp.float32)
            fill = size / self.learner.config.buffer_size
            return state, metrics | {"buffer/size": size, "buffer/fill": fill}

        return jax.jit(learn, donate_argnums=0)

    @cached_property
    def _jit_store(self) -> Callable[[ReplayState, Transition], ReplayState]:
        ring, cameras = self.learner.sources[ONLINE].buffer, self._observer.cameras

        def store(state: ReplayState, rows: Transition) -> ReplayState:
            if cameras is not None and cameras.encoder is not None:
                flat = {name: x[:, 0] for name, x in rows.obs.items()}
                seen = encoded(cameras.encoder, cameras.config.cameras, flat)
                rows = rows.replace(obs={name: x[:, None] for name, x in seen.items()})
            return ring.add(state, self.learner.as_stored(rows))

        return jax.jit(store, donate_argnums=0)
