"""What scripted experts share."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Carry:
    """How an expert takes what it holds to a place, and lets it down there.

    Attributes:
        height: of what is held above its place on the way [m].
        near: it is let down this near to its place along the table [m].
        rest: how far above its place it is let down to [m].
        low: it may be let go this little above its place [m].
    """

    height: float
    near: float
    rest: float
    low: float

    def step(
        self,
        thing: Float[Array, " 3"],
        place: Float[Array, " 3"],
        lead: Float[Array, " 3"],
        limit: float,
    ) -> tuple[Float[Array, " 3"], Bool[Array, ""]]:
        """The next step of the hand [m], and whether what it holds may be let go.

        Args:
            thing: what is held [m].
            place: where it is to be [m].
            lead: how far the commanded target is ahead of the hand [m].
            limit: longest step along an axis [m].
        """
        way = place - thing
        over = jnp.linalg.norm(way[:2]) < self.near
        carried = thing[2] - place[2] > 0.6 * self.height
        height = jnp.where(over, self.rest, self.height)
        # Sideways only where it is clear of the table.
        aside = jnp.where(carried | over, way[:2], jnp.zeros(2))
        # A proportional law on the commanded target, so that lag is not corrected twice.
        goal = jnp.append(aside, way[2] + height) - lead
        low = over & (thing[2] - place[2] < self.low)
        return jnp.clip(0.6 * goal, -limit, limit), low
