"""Which arrays of an agent devices hold together, each a part, in place of all of them on each.

As fully sharded data parallel (FSDP, arXiv 2304.11277; ZeRO-3, arXiv 1910.02054): parameters, their
running averages and the moments of their optimisers are cut alike, an update is of the parts, and
what computes with parameters gathers them where it does (`mjx_serl.devices.Split`).
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import tyro
from jax.sharding import PartitionSpec as P

from mjx_serl import devices
from mjx_serl.training.state import tree_bytes
from mjx_serl.types import PyTree
from scenes.contract.errors import InputError
from scenes.contract.ranges import ranged

_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class FSDPConfig:
    """Parameters that devices hold together.

    Attributes:
        enable: devices that train together (`--devices`) hold large parameters and what their
            optimisers keep together, each an equal part, in place of all of it. Also `--fsdp`.
        min_size_mbytes: parameters of at least this size are split [MiB]; openpi's name and number.
    """

    enable: Annotated[bool, tyro.conf.arg(aliases=("--fsdp",))] = False
    min_size_mbytes: float = ranged(4.0, least=0)


def split_specs(agent: PyTree, among: int, cfg: FSDPConfig) -> PyTree:
    """Return along which axis each leaf of an agent's state, given as shapes, is cut, if it is."""
    return jax.tree.map(lambda x: _spec(x, among, cfg.min_size_mbytes * _MIB), agent)


def require_split(agent: PyTree, among: int, cfg: FSDPConfig) -> None:
    """Raise InputError where so many devices would hold nothing of an agent together."""
    if among == 1:
        raise InputError("--fsdp with one device, allowed: --devices 2 or more; or --no-fsdp")
    if split_bytes(agent, among, cfg):
        return
    sizes = [_nbytes(x) / _MIB for x in jax.tree.leaves(agent) if _axis(x, among) is not None]
    largest = f"{max(sizes):.3g} MiB" if sizes else "none"
    raise InputError(
        f"--fsdp with --fsdp.min-size-mbytes {cfg.min_size_mbytes:g} splits nothing: the largest "
        f"array of this agent that {among} devices can share equally is {largest}. Allowed: less; "
        "or --no-fsdp, for a policy so small is the same on every device"
    )


def split_bytes(agent: PyTree, among: int, cfg: FSDPConfig) -> int:
    """Return how many bytes of an agent's state, given as shapes, are split."""
    specs = jax.tree.leaves(split_specs(agent, among, cfg))
    parts = zip(jax.tree.leaves(agent), specs, strict=True)
    return sum(_nbytes(x) for x, spec in parts if any(spec))


def said(agent: PyTree, among: int, cfg: FSDPConfig) -> str:
    """Return a line about what is split."""
    split, every = split_bytes(agent, among, cfg), tree_bytes(agent)
    each = (every - split + split / among) / _MIB
    return (
        f"fsdp: {split / _MIB:.4g} of {every / _MIB:.4g} MiB of the agent are split, each of "
        f"{among} devices holds {each:.4g} MiB"
    )


def as_split(agent: PyTree, specs: PyTree) -> PyTree:
    """Return an agent's state, of which a device has its parts, with these as `Split`."""

    def of(x: Any, spec: P) -> Any:
        axes = [i for i, name in enumerate(spec) if name == devices.AXIS]
        return devices.Split(x, axes[0] - x.ndim) if axes else x

    return jax.tree.map(of, agent, specs)


def as_parts(agent: PyTree) -> PyTree:
    """Return an agent's state in which `Split` is the part that the device has."""

    def of(x: Any) -> Any:
        return x.part if devices.is_split(x) else x

    return jax.tree.map(of, agent, is_leaf=devices.is_split)


def _spec(x: jax.ShapeDtypeStruct, among: int, least: float) -> P:
    axis = _axis(x, among)
    if axis is None or _nbytes(x) < least:
        return P()
    return P(*(devices.AXIS if i == len(x.shape) + axis else None for i in range(len(x.shape))))


def _axis(x: jax.ShapeDtypeStruct, among: int) -> int | None:
    """The axis along which so many devices can share a leaf, from the last; None if there is none.

    Never the first, which may count members of an ensemble, or layers; nor that of a vector, which
    is no layer's product.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return None
    axes = range(-1, -min(len(x.shape), 3), -1)
    able = [i for i in axes if x.shape[i] and x.shape[i] % among == 0]
    return max(able, key=lambda i: x.shape[i], default=None)


def _nbytes(x: jax.ShapeDtypeStruct) -> int:
    return math.prod(x.shape) * x.dtype.itemsize
