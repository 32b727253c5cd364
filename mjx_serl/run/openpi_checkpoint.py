"""Checkpoints of openpi, read and written: parameters by orbax, statistics as JSON.

    STEP/params/                       {"params": tree}, each leaf perhaps under "value"
    STEP/assets/ID/norm_stats.json     see mjx_serl.nets.vla.normalization

Layout as reference vla_and_real2sim.md 4.3. Nothing is downloaded.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mjx_serl.nets.vla.config import VLAConfig
from mjx_serl.nets.vla.normalization import NormStats, save_norm_stats
from mjx_serl.nets.vla.parameters import leaves
from mjx_serl.run.checkpoint import quiet_orbax
from mjx_serl.types import PyTree
from scenes.contract.errors import InputError

LICENCE = (
    "Note: weights that openpi released hold Gemma's, which come under the Gemma Terms of Use "
    "(https://ai.google.dev/gemma/terms); mjx_serl neither contains nor passes on any of them."
)
_PARAMS, _ROOT, _VALUE = "params", "params", "value"
_LINES = 8  # of what differs

Shape = tuple[int, ...]


def say(line: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(f"{line}\n")


def load_openpi(folder: Path, config: VLAConfig, *, tell: Callable[[str], None] = say) -> PyTree:
    """Return the parameters of a checkpoint, float32 in memory of the host.

    Shapes are compared before anything large is read.

    Args:
        folder: of one step, or its params.
        config: sizes, which have to be those of the checkpoint.
        tell: takes the line about the licence of Gemma's weights.

    Raises:
        InputError: there is no checkpoint, or it is of other sizes; each leaf that differs is
            named.
    """
    wanted = {name: leaf.shape for name, leaf in leaves(config).items()}
    return unflatten_dict(load_arrays(folder, wanted, tell=tell), sep="/")


def load_arrays(
    folder: Path, wanted: Mapping[str, Shape], *, tell: Callable[[str], None] = say
) -> dict[str, np.ndarray]:
    """`load_openpi` of arrays by their paths, whose shapes are `wanted`."""
    path = _params_folder(folder)
    with _orbax() as (checkpointer, ocp):
        try:
            stored = flatten_dict(dict(checkpointer.metadata(path).item_metadata)[_ROOT])
        except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
            raise InputError(f"{path} is no checkpoint of openpi: {_first_line(error)}") from error
        shapes = {_name(parts): tuple(meta.shape) for parts, meta in stored.items()}
        _compare(path, shapes, wanted)
        tell(LICENCE)
        tree = unflatten_dict({(_ROOT, *parts): meta for parts, meta in stored.items()})
        how = ocp.ArrayRestoreArgs(restore_type=np.ndarray, dtype=np.float32)
        args = ocp.args.PyTreeRestore(item=tree, restore_args=jax.tree.map(lambda _: how, tree))
        try:
            found = flatten_dict(checkpointer.restore(path, args=args)[_ROOT])
        except (KeyError, ValueError, OSError) as error:
            raise InputError(f"{path} cannot be read: {_first_line(error)}") from error
    return {_name(parts): np.asarray(x) for parts, x in found.items()}


def save_openpi(
    folder: Path, params: PyTree, *, norm_stats: Mapping[str, Mapping[str, NormStats]] | None = None
) -> None:
    """Write a checkpoint that openpi reads.

    Args:
        folder: of the step, which is made.
        params: to write.
        norm_stats: statistics of "state" and "actions", by the id of the asset they belong to.

    Raises:
        InputError: there is one already.
    """
    path = folder.absolute() / _PARAMS
    if path.exists():
        raise InputError(f"{path} is there already: give another folder")
    with _orbax() as (checkpointer, ocp):
        checkpointer.save(path, args=ocp.args.PyTreeSave({_ROOT: jax.device_get(params)}))
    for asset, stats in (norm_stats or {}).items():
        save_norm_stats(folder / "assets" / asset, stats)


@contextlib.contextmanager
def _orbax() -> Iterator[tuple[Any, Any]]:
    """A checkpointer, and orbax itself, which is imported only here."""
    import orbax.checkpoint as ocp

    with quiet_orbax(), contextlib.closing(ocp.PyTreeCheckpointer()) as checkpointer:
        yield checkpointer, ocp


def is_openpi(folder: Path) -> bool:
    """Whether a folder could be a checkpoint of openpi rather than a run of ours."""
    return folder.name == _PARAMS or (folder / _PARAMS).is_dir()


def _params_folder(folder: Path) -> Path:
    if "://" in str(folder) or ":/" in str(folder):
        raise InputError(f"{folder} is not on this machine: download it first and give the folder")
    if (folder / "model.safetensors").is_file():
        raise InputError(f"{folder} is a checkpoint of openpi's PyTorch port, allowed: JAX's")
    path = folder if folder.name == _PARAMS else folder / _PARAMS
    if not path.is_dir():
        raise InputError(
            f"No openpi checkpoint in {folder}: give the folder that has params/ in it"
        )
    return path.absolute()


def _name(parts: tuple[str, ...]) -> str:
    """The path of a leaf; those that openpi's training wrote end in "value"."""
    return "/".join(parts[:-1] if parts[-1] == _VALUE else parts)


def _compare(path: Path, found: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> None:
    lines = [f"missing: {name} {list(wanted[name])}" for name in wanted.keys() - found.keys()]
    lines += [f"not known: {name} {list(found[name])}" for name in found.keys() - wanted.keys()]
    lines += [
        f"{name} is {list(found[name])}, wanted {list(shape)}"
        for name, shape in wanted.items()
        if found.get(name, shape) != shape
    ]
    if not lines:
        return
    lines.sort()
    more = [f"... {len(lines) - _LINES} more"] if len(lines) > _LINES else []
    head = f"{path} is not of these sizes ({len(lines)} differences):{_hint(found, wanted)}"
    raise InputError("\n  ".join([head, *lines[:_LINES], *more]))


def _hint(found: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> str:
    if any("lora" in name for name in found):
        return " it has LoRA's factors, which have to be multiplied into the weights first"
    kinds = ["pi0.5" if "time_mlp_in/kernel" in names else "pi0" for names in (found, wanted)]
    return "" if kinds[0] == kinds[1] else f" it is a {kinds[0]}, wanted is a {kinds[1]}"


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
