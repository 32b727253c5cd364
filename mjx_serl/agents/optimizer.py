"""Adam with the two habits every agent here shares: skip what is not finite, tick when asked."""

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from mjx_serl import devices
from mjx_serl.types import PyTree


@struct.dataclass
class Trainable:
    """Parameters and the optimiser state that belongs to them."""

    params: PyTree
    opt_state: PyTree

    def bare(self) -> "Trainable":
        """The parameters alone: what acting needs, and another run begins with."""
        return Trainable(self.params, None)


def make_optimizer(
    lr: float | Float[Array, ""], *, warmup_steps: int = 0, clip_norm: float | None = None
) -> optax.GradientTransformation:
    """Return Adam at `lr`, ramped up linearly over `warmup_steps`, gradients clipped to a norm.

    An `lr` that changes may be traced, without a ramp.
    """
    schedule = optax.linear_schedule(0.0, lr, warmup_steps) if warmup_steps else lr
    return optax.chain(clipped(clip_norm), optax.adam(schedule))


def make_adamw(
    lr: float | optax.Schedule, *, weight_decay: float = 0.0, clip_norm: float | None = None
) -> optax.GradientTransformation:
    """Return AdamW with the decay rates of openpi and RLinf (0.9, 0.95), gradients clipped."""
    adamw = optax.adamw(lr, b1=0.9, b2=0.95, weight_decay=weight_decay)
    return optax.chain(clipped(clip_norm), adamw)


def clipped(norm: float | None) -> optax.GradientTransformation:
    """Return `optax.clip_by_global_norm`, of gradients that may be split too; None clips none."""
    if not norm:
        return optax.identity()
    plain = optax.clip_by_global_norm(norm)

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        if not devices.has_split(updates):
            return plain.update(updates, state, params)
        size = global_norm(updates)
        small = size < norm
        return jax.tree.map(lambda x: jnp.where(small, x, x / size * norm), updates), state

    return optax.GradientTransformation(plain.init, update)


def global_norm(tree: PyTree) -> Float[Array, ""]:
    """Return `optax.tree.norm` of a pytree of which some may be split."""
    if not devices.has_split(tree):
        return optax.tree.norm(tree)
    nodes = jax.tree.leaves(tree, is_leaf=devices.is_split)
    split = [x.part for x in nodes if devices.is_split(x)]
    rest = [x for x in nodes if not devices.is_split(x)]
    squares = [sum(jnp.sum(jnp.square(x)) for x in some) for some in (split, rest)]
    return jnp.sqrt(devices.total(squares[0]) + squares[1])


def paths_of(params: PyTree) -> PyTree:
    """The same tree with each leaf's path in its place, its parts joined by "/"."""

    def path_of(path: tuple, _: Array) -> str:
        return jax.tree_util.keystr(path, simple=True, separator="/")

    return jax.tree_util.tree_map_with_path(path_of, params, is_leaf=devices.is_split)


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Tell whether no leaf holds a NaN or an infinity (or numbers whose sum overflows)."""
    # One bad entry makes a sum bad, and a product with ones is the fast way to add.
    return jnp.isfinite(sum(_total(leaf) for leaf in jax.tree.leaves(tree)))


def _total(x: Float[Array, "..."]) -> Float[Array, ""]:
    if x.ndim < 2:
        return jnp.sum(x)
    ones = jnp.ones((*x.shape[:-2], 8, x.shape[-2]), x.dtype)
    return jnp.sum((ones @ x)[..., 0, :])


def apply_gradients(
    optimizer: optax.GradientTransformation, trainable: Trainable, grads: PyTree
) -> tuple[Trainable, Bool[Array, ""]]:
    """Take one step, or none at all where a gradient is not finite; also tell which it was.

    Devices that learn together take the step of their mean gradient.
    """
    return apply_common(optimizer, trainable, devices.mean(grads))


def apply_common(
    optimizer: optax.GradientTransformation, trainable: Trainable, grads: PyTree
) -> tuple[Trainable, Bool[Array, ""]]:
    """`apply_gradients` where `devices.mean` has been taken, of several at once or with more."""
    finite = all_finite(grads)
    if devices.has_split(grads):  # of which each device has seen its part
        finite = devices.all_true(finite)
    updates, opt_state = optimizer.update(grads, trainable.opt_state, trainable.params)
    stepped = Trainable(optax.apply_updates(trainable.params, updates), opt_state)
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), stepped, trainable)
    return kept, finite


def trainable(optimizer: optax.GradientTransformation, params: PyTree) -> Trainable:
    """Parameters with a fresh state of their optimiser."""
    return Trainable(params, optimizer.init(params))


def count_skipped(skipped: Int[Array, ""], finite: Bool[Array, ""]) -> Int[Array, ""]:
    """One more where a step was not taken."""
    return jnp.where(finite, skipped, optax.safe_increment(skipped))


def tick(optimizer: optax.GradientTransformation, trainable: Trainable) -> Trainable:
    """Take an Adam step with zero gradients, as SERL does for networks it is not training.

    The moments decay and the parameters coast on the first one. With N ticks per gradient the
    step per gradient is sqrt(N) larger than with one (measured 1.41, 2.00, 2.24, 3.00 for
    N = 2, 4, 5, 9).
    """
    zeros = jax.tree.map(jnp.zeros_like, trainable.params)
    updates, opt_state = optimizer.update(zeros, trainable.opt_state, trainable.params)
    return Trainable(optax.apply_updates(trainable.params, updates), opt_state)
