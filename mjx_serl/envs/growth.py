"""Ranges that grow with success, as one curriculum (automatic domain randomisation).

Each end of each range begins at the number that changes nothing. Half of the episodes test one
end: their draw is put there. An end moves on by a step once enough of the episodes that tested it
were solved, and back where too few were (arXiv 1910.07113, section 5; its boundary sampling).
"""

from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from mjx_serl import devices
from mjx_serl.envs.randomization import Drawn
from mjx_serl.envs.variation import Variation
from mjx_serl.types import PRNGKey

_TEST = 16  # stream of the key of a reset, apart from those of `variation`
TEST_SHARE = 0.5  # of the episodes, as in arXiv 1910.07113
EPISODES = 20  # that tested an end before it moves (ours)
RAISE_ABOVE, LOWER_BELOW = 0.8, 0.4  # success rates (reference next_capabilities.md E.2)


@struct.dataclass
class Growth:
    """How far the ranges have grown.

    Attributes:
        reach: of low and high ends, as a share of the way from the neutral number [1].
        tested: episodes that tested them since they moved last.
        solved: of those, how many were solved.
        SUMS: what is summed over all worlds, on whichever device they are.
    """

    SUMS: ClassVar = ("tested", "solved")

    reach: Float[Array, "D 2"]
    tested: Int[Array, "D 2"]
    solved: Int[Array, "D 2"]


def no_growth(variation: Variation) -> Growth:
    """Return the state in which every range is its neutral number alone."""
    shape = (len(variation.randomization.draws), 2)
    return Growth(jnp.zeros(shape), jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.int32))


def draw_grown(variation: Variation, growth: Growth, key: PRNGKey, slot: Int[Array, ""]) -> Drawn:
    """Return the draws of a world from ranges that have grown so far; see `Variation.draw`."""
    neutral = jnp.array([draw.nominal for draw in variation.randomization.draws])
    ends = jnp.stack(variation.between(neutral, growth.reach), -1)
    numbers = variation.draw(key, slot, ends=(ends[:, 0], ends[:, 1])).numbers
    k_test, k_end = jax.random.split(jax.random.fold_in(key, _TEST))
    end = jax.random.randint(k_end, (), 0, ends.size)
    tests = jax.random.bernoulli(k_test, TEST_SHARE)
    moved = numbers.at[end // 2].set(ends.reshape(-1)[end])
    return Drawn(jnp.where(tests, moved, numbers), jnp.where(tests, end, -1))


def count_tested(
    growth: Growth, tested: Int[Array, " N"], ended: Bool[Array, " N"], success: Bool[Array, " N"]
) -> Growth:
    """Return the state with the episodes that ended in a step."""

    def added(count: Int[Array, "D 2"], which: Bool[Array, " N"]) -> Int[Array, "D 2"]:
        # The last place takes what tested nothing.
        places = jnp.where(which & (tested >= 0), tested, count.size)
        more = jnp.zeros(count.size + 1, jnp.int32).at[places].add(1)[:-1]
        return count + more.reshape(count.shape)

    return growth.replace(
        tested=added(growth.tested, ended), solved=added(growth.solved, ended & success)
    )


def by_all(growth: Growth, move: Callable[[Growth], Growth]) -> Growth:
    """Return the state after a move that asks what the worlds of all devices have counted."""
    moved = move(growth.replace(**devices.total(_counts(growth))))
    return moved.replace(**devices.once(_counts(moved)))


def _counts(growth: Growth) -> dict[str, Int[Array, "D 2"]]:
    return {name: getattr(growth, name) for name in Growth.SUMS}


def grow(growth: Growth, step: float) -> Growth:
    """Return the state after the ends that were tested enough have moved by `step` or stayed."""
    enough = growth.tested >= EPISODES
    rate = growth.solved / jnp.maximum(growth.tested, 1)
    by = step * ((rate > RAISE_ABOVE).astype(jnp.float32) - (rate < LOWER_BELOW))
    again = jnp.where(enough, 0, 1)
    return Growth(
        reach=jnp.clip(growth.reach + jnp.where(enough, by, 0.0), 0.0, 1.0),
        tested=growth.tested * again,
        solved=growth.solved * again,
    )
