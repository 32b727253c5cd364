"""What a program that runs on many devices at once knows of the others.

An epoch is written for one device. Where it is traced once for each of many (`shard_map` over the
axis `AXIS`, `mjx_serl.training.sharded`), these say which one it is and put together what all of
them found. Anywhere else there is one device, and they leave a program as it is, bit for bit.

What passes between devices is one array for each dtype, so that a pytree is one message. Arrays
that are too large to be on every device are `Split`; a pytree may hold some.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Sharding
from jaxtyping import Array, Bool, Int, Shaped

from mjx_serl.types import PRNGKey, PyTree

AXIS = "devices"
Tree = TypeVar("Tree")
Found = TypeVar("Found")
_GATHERED = "gathered"  # what is not kept until gradients are asked for


@struct.dataclass
class Split:
    """This device's part of an array that all devices hold together.

    What is done leaf by leaf, such as a step of an optimiser, is done to the parts. Whoever needs
    the array takes `whole`: the gradient of what is made of it comes as the parts of the sum of all
    devices' gradients, which is what the transpose of gathering is.

    Attributes:
        part: of it.
        axis: along which it is cut, counted from the last, so that it is the same axis where a
            leading one is taken away.
    """

    part: Shaped[Array, "..."]
    axis: int = struct.field(pytree_node=False)


@dataclass(frozen=True)
class _Part:
    """Which of how many parts of all worlds is traced, and how many are stepped at once."""

    of: int
    index: Int[Array, ""] | int
    at_once: int


_PART: ContextVar[_Part | None] = ContextVar("part", default=None)


@contextmanager
def as_part(of: int, index: Int[Array, ""] | int, *, at_once: int = 1) -> Iterator[None]:
    """Trace what is within for one of so many equal parts of all worlds, without the others.

    It draws for its worlds what they would draw together (`drawn`); it cannot ask the others
    anything. Of all parts `at_once` are stepped at the same time.
    """
    token = _PART.set(_Part(of, index, at_once))
    try:
        yield
    finally:
        _PART.reset(token)


def drawn(
    draw: Callable[[tuple[int, ...]], Array], shape: tuple[int, ...]
) -> Shaped[Array, "N ..."]:
    """Return `draw(shape)`, random numbers whose first axis counts worlds.

    Within `as_part` they are this part's of what is drawn for all.
    """
    if _PART.get() is None:
        return draw(shape)
    return own_rows(draw((shape[0] * count(), *shape[1:])))


def at_once() -> int:
    """Return how many devices step worlds at the same time."""
    part = _PART.get()
    return count() if part is None else part.at_once


def count() -> int:
    """Return how many devices run what is traced, or in how many parts."""
    if (part := _PART.get()) is not None:
        return part.of
    try:
        return jax.lax.axis_size(AXIS)
    except NameError:  # no such axis here
        return 1


def _index() -> Int[Array, ""] | int:
    """Which of them."""
    part = _PART.get()
    return jax.lax.axis_index(AXIS) if part is None else part.index


def numbers(num: int) -> Int[Array, " num"]:
    """Return the numbers of this device's worlds, `num` on each, among all."""
    own = jnp.arange(num)
    return own if count() == 1 else own + num * _index()


def own_key(key: PRNGKey) -> PRNGKey:
    """Return another key on each device."""
    return key if count() == 1 else jax.random.fold_in(key, _index())


def own_rows(tree: Tree) -> Tree:
    """Return this device's part of the leading axis, where each has all of it."""

    def part(x: Array) -> Array:
        size = x.shape[0] // count()
        return jax.lax.dynamic_slice_in_dim(x, size * _index(), size)

    return tree if count() == 1 else jax.tree.map(part, tree)


def total(tree: Tree) -> Tree:
    """Return the sum over all devices."""
    return tree if count() == 1 else _packed(tree, lambda x: jax.lax.psum(x, AXIS))


def mean(tree: Tree) -> Tree:
    """Return the mean over all devices; of what is split, that of gradients, which are sums."""
    if count() == 1:
        return tree
    rest = jax.tree.map(lambda x: None if is_split(x) else x, tree, is_leaf=is_split)
    rest = _packed(rest, lambda x: jax.lax.pmean(x, AXIS))

    def of(x: Any, among: Any) -> Any:
        return jax.tree.map(lambda part: part / count(), x) if is_split(x) else among

    return jax.tree.map(of, tree, rest, is_leaf=is_split)


def is_split(x: Any) -> bool:
    """Whether a node of a pytree is an array that all devices hold together."""
    return isinstance(x, Split)


def has_split(tree: PyTree) -> bool:
    """Whether any node of a pytree is."""
    return any(map(is_split, jax.tree.leaves(tree, is_leaf=is_split)))


def whole(tree: Tree) -> Tree:
    """Return a pytree in which nothing is split; each array that was is gathered by a message."""

    def gather(x: Any) -> Any:
        if not is_split(x):
            return x
        axis = x.part.ndim + x.axis
        return checkpoint_name(jax.lax.all_gather(x.part, AXIS, axis=axis, tiled=True), _GATHERED)

    return jax.tree.map(gather, tree, is_leaf=is_split)


def with_whole(function: Callable[..., Found], params: PyTree, *args: Any) -> Found:
    """Return function(params, *args) of parameters of which some may be split.

    They are gathered for it, and again for its gradient: in between no device holds them.
    """
    if not has_split(params):
        return function(params, *args)
    keep = jax.checkpoint_policies.save_anything_except_these_names(_GATHERED)

    def gathered(params: PyTree, *args: Any) -> Found:
        return function(whole(params), *args)

    return jax.checkpoint(gathered, policy=keep)(params, *args)


def once(tree: Tree) -> Tree:
    """Return what all devices know on the first one and zeros on the others: its `total` is it."""

    def on_first(x: Array) -> Array:
        return jnp.where(_index() == 0, x, jnp.zeros_like(x))

    return tree if count() == 1 else jax.tree.map(on_first, tree)


def all_true(flag: Bool[Array, ""]) -> Bool[Array, ""]:
    """Return whether it is true on every device."""
    return flag if count() == 1 else total((~flag).astype(jnp.int32)) == 0


def any_true(flag: Bool[Array, ""]) -> Bool[Array, ""]:
    """Return whether it is true on some device."""
    return flag if count() == 1 else total(flag.astype(jnp.int32)) > 0


def of_first(has: Bool[Array, ""], tree: Tree) -> tuple[Bool[Array, ""], Tree]:
    """Return whether any device `has` something, and what the first of them does; else zeros."""
    if count() == 1:
        return has, tree
    own = jax.lax.axis_index(AXIS)
    first = jax.lax.pmin(jnp.where(has, own, count()), AXIS)
    # A sum of one number and zeros, of booleans too.
    told = jax.tree.map(lambda x: jnp.where(own == first, x, jnp.zeros_like(x)), tree)
    wide = jax.tree.map(lambda x: x.astype(jnp.int32) if x.dtype == bool else x, told)
    found = jax.tree.map(lambda x, like: x.astype(like.dtype), total(wide), tree)
    return first < count(), found


def place(tree: Tree, where: PyTree) -> Tree:
    """Return arrays that lie as shardings say, one for all or a pytree of them.

    Devices of other processes can be among them: there, all processes call this with arrays of the
    same values.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, where)
    if isinstance(where, Sharding):
        return jax.tree.map(lambda x: _place(x, where), tree)
    return jax.tree.map(_place, tree, where)


def _place(x: Any, where: Sharding) -> Array:
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return x if x.sharding == where else jax.jit(lambda x: x, out_shardings=where)(x)
    if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        raw = _place(jax.random.key_data(x), where)
        return jax.random.wrap_key_data(raw, impl=jax.random.key_impl(x))
    here = np.asarray(x)
    return jax.make_array_from_callback(here.shape, where, lambda part: here[part])


def _packed(tree: PyTree, reduce: Callable[[Array], Array]) -> PyTree:
    """Return a pytree reduced as one array for each dtype."""
    leaves, structure = jax.tree.flatten(tree)
    reduced = list(leaves)
    for dtype in sorted({str(x.dtype) for x in leaves}):
        places = [i for i, x in enumerate(leaves) if str(x.dtype) == dtype]
        flat = reduce(jnp.concatenate([leaves[i].reshape(-1) for i in places]))
        begin = 0
        for i in places:
            size = leaves[i].size
            reduced[i] = flat[begin : begin + size].reshape(leaves[i].shape)
            begin += size
    return jax.tree.unflatten(structure, reduced)
