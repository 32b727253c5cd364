"""Begin a run with what another one learned."""

from collections.abc import Callable
from pathlib import Path

import jax

from mjx_serl.run.checkpoint import CheckpointStore, MisfitError
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.openpi_checkpoint import is_openpi, load_arrays
from mjx_serl.training.state import PolicyParams, TrainState
from mjx_serl.training.trainer import Trainer
from scenes.contract.errors import InputError

KEPT = object()  # in the place of a parameter: it stays as it was drawn
_OF_OPENPI = "PaliGemma/llm/embedder/input_embedding"  # a parameter that all of openpi's have


def load_initial(path: Path, trainer: Trainer, shapes: TrainState) -> PolicyParams:
    """The parameters and observation statistics of a run's latest good checkpoint.

    Of a checkpoint of openpi the parameters of the net; all else is `KEPT`.

    Args:
        path: its folder, or of openpi that of a step.
        trainer: of the new run.
        shapes: of the new run's state.

    Raises InputError, in one line, where they do not fit.
    """
    template = jax.eval_shape(learned_by(trainer), shapes)
    if is_openpi(path):
        return _of_openpi(path, template)
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


def _of_openpi(path: Path, template: PolicyParams) -> PolicyParams:
    flat, structure = jax.tree_util.tree_flatten_with_path(template)
    named = [(jax.tree_util.keystr(p, simple=True, separator="/"), x) for p, x in flat]
    folders = {name.removesuffix(_OF_OPENPI) for name, _ in named if name.endswith(_OF_OPENPI)}
    if len(folders) != 1:
        raise InputError(
            f"--init {path} is a checkpoint of openpi, allowed: where the agent's net is one of "
            "openpi's (agent.net vla)"
        )
    (folder,) = folders
    shapes = {name.removeprefix(folder): x.shape for name, x in named if name.startswith(folder)}
    found = {folder + name: x for name, x in load_arrays(path, shapes).items()}
    leaves = [jax.device_put(found[name]) if name in found else KEPT for name, _ in named]
    return jax.tree.unflatten(structure, leaves)


def with_initial(state: TrainState, params: PolicyParams, trainer: Trainer) -> TrainState:
    """The state with `params` in the place of what the trainer says is learned."""
    leaves, structure = jax.tree.flatten(state)
    # Asked of a state that holds the numbers of its leaves, it says which ones it picks.
    numbers = jax.tree.unflatten(structure, range(len(leaves)))
    picked = jax.tree.leaves(learned_by(trainer)(numbers))
    for number, x in zip(picked, jax.tree.leaves(params), strict=True):
        if x is not KEPT:
            leaves[number] = x
    state = jax.tree.unflatten(structure, leaves)
    begun = getattr(trainer, "begun", None)
    return state if begun is None else begun(state)


def learned_by(trainer: Trainer) -> Callable[[TrainState], PolicyParams]:
    """What a trainer says is learned, else what its policy reads."""
    return getattr(trainer, "learned_params", trainer.policy_params)
