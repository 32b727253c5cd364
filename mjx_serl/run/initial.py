"""Begin a run with what another one learned."""

from collections.abc import Callable
from pathlib import Path

import jax

from mjx_serl.run.checkpoint import CheckpointStore, MisfitError
from mjx_serl.run.folder import RunFolder
from mjx_serl.training.state import PolicyParams, TrainState
from mjx_serl.training.trainer import Trainer
from scenes.contract.errors import InputError


def load_initial(path: Path, trainer: Trainer, shapes: TrainState) -> PolicyParams:
    """The parameters and observation statistics of a run's latest good checkpoint.

    Args:
        path: its folder.
        trainer: of the new run.
        shapes: of the new run's state.

    Raises InputError, in one line, where they do not fit.
    """
    template = jax.eval_shape(learned_by(trainer), shapes)
    store = CheckpointStore(RunFolder.open(path).checkpoints)
    try:
        params, _, _ = store.restore(template, part=True)
    except MisfitError as error:
        first, *others = error.differences
        more = f" and {len(others)} more" if others else ""
        raise InputError(
            f"--init {path} does not fit: {first}{more}; what is observed, the actions, the agent "
            "and its sizes must be as there"
        ) from None
    return params


def with_initial(state: TrainState, params: PolicyParams, trainer: Trainer) -> TrainState:
    """The state with `params` in the place of what the trainer says is learned."""
    leaves, structure = jax.tree.flatten(state)
    # Asked of a state that holds the numbers of its leaves, it says which ones it picks.
    numbers = jax.tree.unflatten(structure, range(len(leaves)))
    picked = jax.tree.leaves(learned_by(trainer)(numbers))
    for number, x in zip(picked, jax.tree.leaves(params), strict=True):
        leaves[number] = x
    state = jax.tree.unflatten(structure, leaves)
    begun = getattr(trainer, "begun", None)
    return state if begun is None else begun(state)


def learned_by(trainer: Trainer) -> Callable[[TrainState], PolicyParams]:
    """What a trainer says is learned, else what its policy reads."""
    return getattr(trainer, "learned_params", trainer.policy_params)
