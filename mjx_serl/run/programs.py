"""The compiled functions of a run."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax

from mjx_serl.envs.observation import Observer
from mjx_serl.training.episodes import EpisodeResult
from mjx_serl.training.evaluate import CHECK, evaluate, stream_key
from mjx_serl.training.placed import Placed
from mjx_serl.training.policies import trained_policy
from mjx_serl.training.sharded import Sharded
from mjx_serl.training.state import PolicyParams, TrainState
from mjx_serl.training.trainer import Trainer
from mjx_serl.types import PRNGKey, PyTree

# Trains for one epoch; the state given is used up.
EpochFn = Callable[[TrainState], tuple[TrainState, dict[str, jax.Array]]]
# Evaluates policy parameters on starts drawn with a key.
EvalFn = Callable[[PolicyParams, PRNGKey], EpisodeResult]


@dataclass(frozen=True)
class Programs:
    """What a run calls; compiled, none of them can be traced again.

    Attributes:
        epoch: one epoch of training.
        check: the evaluation during training.
        final: the evaluation after it.
    """

    epoch: EpochFn
    check: EvalFn
    final: EvalFn


def compile_epoch(trainer: Trainer, shapes: TrainState, *, seeds: int | None = None) -> Any:
    """Return `trainer.epoch`, compiled for `shapes` where it can be.

    With `seeds` it is that of so many states at once, which is always compiled.
    """
    if seeds is not None:
        epochs = jax.vmap(trainer.epoch)
        return jax.jit(epochs, donate_argnums=0).lower(stacked_shapes(shapes, seeds)).compile()
    if not trainer.traceable:
        return trainer.epoch
    if isinstance(trainer, Sharded):
        return trainer.jit(trainer.epoch).lower(shapes).compile()
    return jax.jit(trainer.epoch, donate_argnums=0).lower(shapes).compile()


def compile_eval(
    trainer: Trainer,
    observer: Observer,
    shapes: TrainState,
    *,
    episodes: int,
    seeds: int | None = None,
) -> EvalFn:
    """Return the evaluation of the deterministic policy, compiled where it can be.

    With `seeds` it is that of so many parameters and keys at once, which is always compiled.
    """

    def play(params: PolicyParams, key: PRNGKey, episodes: int) -> EpisodeResult:
        policy = trained_policy(trainer, params)
        return evaluate(observer, policy, key, episodes=episodes, horizon=trainer.horizon)

    run = partial(play, episodes=episodes)
    if isinstance(trainer, Placed):
        return trainer.evaluation(play, jax.eval_shape(trainer.policy_params, shapes), episodes)
    if not trainer.traceable and seeds is None:
        return run
    params = jax.eval_shape(trainer.policy_params, shapes)
    if isinstance(trainer, Sharded):
        return trainer.evaluation(play, params, episodes)
    key = jax.eval_shape(partial(stream_key, 0, CHECK))
    if seeds is None:
        return jax.jit(run).lower(params, key).compile()
    params, key = stacked_shapes((params, key), seeds)
    return jax.jit(jax.vmap(run)).lower(params, key).compile()


def stacked_shapes(shapes: PyTree, seeds: int) -> PyTree:
    """Shapes with a first axis for the seeds."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((seeds, *x.shape), x.dtype), shapes)
