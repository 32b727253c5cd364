"""Flow matching: a velocity field that carries noise (time 0) to data (time 1).

x_t = (1 - t) x_0 + t x_1 with x_0 ~ N(0, I) and x_1 from the data; the field learns x_1 - x_0
(rectified flow, arXiv 2209.03003 eq. 1; as policy arXiv 2502.02538 eq. 5). openpi's time runs the
other way.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mjx_serl.nets.mlp import MLP, forward
from mjx_serl.types import PRNGKey, PyTree


@dataclass(frozen=True)
class Flow:
    """A conditional flow over vectors in [-1, 1].

    Attributes:
        net: [features | x_t | t] to the velocity.
        dim: of the vectors.
        steps: of Euler's method from noise to data.
    """

    net: MLP
    dim: int
    steps: int

    def init(self, key: PRNGKey, features: int) -> PyTree:
        """Draw parameters for so many features."""
        return self.net.init(key, jnp.zeros((1, features + self.dim + 1)))

    def velocity(
        self,
        params: PyTree,
        features: Float[Array, "B D"],
        x: Float[Array, "B A"],
        time: Float[Array, " B"],
    ) -> Float[Array, "B A"]:
        """Return dx/dt at points x and times in [0, 1]."""
        return forward(self.net, params, jnp.concatenate([features, x, time[:, None]], axis=-1))

    def transport(
        self, params: PyTree, features: Float[Array, "B D"], noise: Float[Array, "B A"]
    ) -> Float[Array, "B A"]:
        """Follow the field from noise to data by Euler's method; the result is clipped to [-1, 1].

        It is written out step by step, so that a bundle can hold it.
        """
        x = noise
        for k in range(self.steps):
            time = jnp.full(x.shape[0], k / self.steps)
            x = x + self.velocity(params, features, x, time) / self.steps
        return jnp.clip(x, -1.0, 1.0)

    def candidates(
        self, params: PyTree, features: Float[Array, "B D"], noise: Float[Array, "N B A"]
    ) -> Float[Array, "N B A"]:
        """`transport` of N noises for each row of features."""
        repeated = repeat_rows(features, noise.shape[0])
        flat = noise.reshape(repeated.shape[0], -1)
        return self.transport(params, repeated, flat).reshape(noise.shape)

    def loss(
        self,
        params: PyTree,
        features: Float[Array, "B D"],
        data: Float[Array, "B A"],
        key: PRNGKey,
        *,
        counted: Bool[Array, "B A"],
    ) -> Float[Array, ""]:
        """Mean of (v(s, x_t, t) - (x_1 - x_0))^2 at random times, entries not `counted` as zeros.

        arXiv 2507.07969 eq. 9 (its code masks what comes after an episode's end the same way).
        """
        noise_key, time_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, data.shape)
        time = jax.random.uniform(time_key, data.shape[:1])
        x = (1.0 - time[:, None]) * noise + time[:, None] * data
        error = self.velocity(params, features, x, time) - (data - noise)
        return jnp.mean(jnp.where(counted, jnp.square(error), 0.0))


def repeat_rows(x: Float[Array, "B D"], count: int) -> Float[Array, "NB D"]:
    """All rows, then all rows again, `count` times."""
    return jnp.broadcast_to(x, (count, *x.shape)).reshape(count * x.shape[0], -1)
