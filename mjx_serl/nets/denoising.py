"""From noise to an action chunk: by an ODE, or at random so that the choice has a density.

Time, mean and noise as in pi_RL and RLinf (reference vla_and_real2sim.md 3.1 to 3.3): t falls from
1 in K steps of d = 1 / K, x_(t - d) = x_t - d v follows the field, and

    Flow-SDE    sigma_i = a sqrt(t_i / (1 - t_i)), at t = 1 with t_1 in the denominator,
                x_next ~ N(x - d v - sigma_i^2 d / (2 t_i) (x + (1 - t_i) v), sigma_i^2 d)
    Flow-Noise  x_next ~ N(x - d v, std(x, t)^2), of a std that is learned

    FPO         the ODE from drawn noise; for a log-density stands how well the field fits the
                choice at stored points, as flow matching counts it (next_capabilities.md A.8)

The whole Flow-SDE has the ODE's distributions at every t as d goes to 0. Here one step of K is
random, another for each sample, and the others follow the ODE: the density of a choice is that of
one step, which is recomputed at 1 / K of the cost.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mjx_serl import devices
from mjx_serl.nets.distributions import normal_log_density
from mjx_serl.types import PRNGKey

Chunk: TypeAlias = Float[Array, "B H D"]
# (x, time [B]) to a velocity, or to a standard deviation.
Field: TypeAlias = Callable[[Chunk, Float[Array, " B"]], Chunk]
Noted: TypeAlias = dict[str, Array]

# What a random choice leaves for learning: the step that was random, what it led from and to; of
# Flow-Noise every point on the way; of FPO points of flow matching, their times, what fits there.
INDEX, FROM, TO, PATH = "index", "x_from", "x_to", "x_path"
POINTS, TIMES, WANTED = "points", "times", "wanted"
# openpi's times of flow matching, t ~ 0.999 Beta(1.5, 1) + 0.001: more of them noisy.
BETA, LEAST_TIME = 1.5, 0.001


def times(steps: int) -> Float[np.ndarray, " K"]:
    """1, 1 - 1 / K, ..., 1 / K: when each of K steps begins."""
    return (1.0 - np.arange(steps) / steps).astype(np.float32)


def follow(field: Field, x: Chunk, steps: int) -> Chunk:
    """Follow the field from noise to an action by Euler's method.

    It is written out step by step, so that a bundle can hold it.
    """
    for time in times(steps):
        x = x - field(x, jnp.full(x.shape[0], time)) / steps
    return x


def noisy_point(key: PRNGKey, data: Chunk) -> tuple[Chunk, Float[Array, " B"], Chunk]:
    """Return points on the way to the data, their times, and what the field should say there."""
    noise_key, time_key = jax.random.split(key)
    noise = devices.drawn(partial(jax.random.normal, noise_key), data.shape)
    # Beta(a, 1) is the a-th root of a uniform number.
    root = devices.drawn(partial(jax.random.uniform, time_key), data.shape[:1]) ** (1.0 / BETA)
    time = (1.0 - LEAST_TIME) * root + LEAST_TIME
    at = time[:, None, None]
    return at * noise + (1.0 - at) * data, time, noise - data


class Denoiser(Protocol):
    """A random way from noise to an action, whose density is known."""

    @property
    def steps(self) -> int:
        """K."""
        ...

    def sample(self, field: Field, std: Field, x: Chunk, key: PRNGKey) -> tuple[Chunk, Noted]:
        """Return actions from noise x, and what `log_density` must know of the way.

        Args:
            field: the velocity.
            std: of the noise that is learned, if any is.
            x: standard normal.
            key: draws the rest.
        """
        ...

    def log_density(self, field: Field, std: Field, noted: Noted) -> tuple[Chunk, Chunk]:
        """Return each entry's log-density of the way taken, and its entropy [nat].

        It asks the field as `sample` did, so that the same parameters give the same numbers.
        """
        ...


@dataclass(frozen=True)
class FlowSDE:
    """One random step of K.

    Attributes:
        steps: K.
        level: a, how much noise; the first step's standard deviation.
    """

    steps: int
    level: float

    @property
    def std(self) -> Float[np.ndarray, " K"]:
        """sigma_i sqrt(d) of every step."""
        t = times(self.steps).astype(np.float64)
        # 1 - t_0 is 0: that of t_1.
        left = np.where(t < 1.0, 1.0 - t, 1.0 / self.steps)
        return (self.level * np.sqrt(t / left / self.steps)).astype(np.float32)

    def mean(
        self, x: Chunk, velocity: Chunk, time: Float[Array, "B 1 1"], std: Float[Array, "B 1 1"]
    ) -> Chunk:
        """Of a random step, sigma^2 d being std^2."""
        drift = x + (1.0 - time) * velocity
        return x - velocity / self.steps - jnp.square(std) / (2.0 * time) * drift

    def sample(self, field: Field, std: Field, x: Chunk, key: PRNGKey) -> tuple[Chunk, Noted]:
        """Follow the field but for one step of each sample, drawn uniformly."""
        del std
        index_key, noise_key = jax.random.split(key)
        pick = partial(jax.random.randint, index_key, minval=0, maxval=self.steps)
        noise = devices.drawn(partial(jax.random.normal, noise_key), x.shape)
        return self.sample_at(field, x, devices.drawn(pick, x.shape[:1]), noise)

    def sample_at(
        self, field: Field, x: Chunk, index: Int[Array, " B"], noise: Chunk
    ) -> tuple[Chunk, Noted]:
        """`sample` with the random step of each sample and its noise given."""

        def step(carry: tuple, xs: tuple) -> tuple[tuple, None]:
            (x, before, after), (i, time, std) = carry, xs
            velocity = field(x, jnp.full(x.shape[0], time))
            here = (index == i)[:, None, None]
            drawn = self.mean(x, velocity, time, std) + std * noise
            x_next = jnp.where(here, drawn, x - velocity / self.steps)
            return (x_next, jnp.where(here, x, before), jnp.where(here, x_next, after)), None

        xs = (jnp.arange(self.steps), jnp.asarray(times(self.steps)), jnp.asarray(self.std))
        (x, before, after), _ = jax.lax.scan(step, (x, x, x), xs)
        return x, {INDEX: index, FROM: before, TO: after}

    def log_density(self, field: Field, std: Field, noted: Noted) -> tuple[Chunk, Chunk]:
        """Of the one random step; its noise is given, and so its entropy."""
        del std
        x, index = noted[FROM], noted[INDEX]
        time, spread = (jnp.asarray(table)[index] for table in (times(self.steps), self.std))
        velocity = field(x, time)
        time, spread = time[:, None, None], spread[:, None, None]
        mean = self.mean(x, velocity, time, spread)
        density = normal_log_density(noted[TO], mean, spread)
        return density, jnp.broadcast_to(normal_entropy(spread), density.shape)


@dataclass(frozen=True)
class FlowNoise:
    """All K steps are random, with a standard deviation that is learned.

    The log-density is the mean over the K steps and the first noise, not the sum: the ratio of two
    policies is then a geometric mean, which can be clipped as that of one step (RLinf's
    `joint_logprob`).

    Attributes:
        steps: K.
    """

    steps: int

    def sample(self, field: Field, std: Field, x: Chunk, key: PRNGKey) -> tuple[Chunk, Noted]:
        """Follow the field with noise at every step."""

        def step(x: Chunk, xs: tuple) -> tuple[Chunk, Chunk]:
            time, key = xs
            at = jnp.full(x.shape[0], time)
            mean, spread = x - field(x, at) / self.steps, std(x, at)
            x = mean + spread * devices.drawn(partial(jax.random.normal, key), x.shape)
            return x, x

        start = x
        keys = jax.random.split(key, self.steps)
        x, path = jax.lax.scan(step, x, (jnp.asarray(times(self.steps)), keys))
        return x, {PATH: jnp.moveaxis(jnp.concatenate([start[None], path]), 0, 1)}

    def log_density(self, field: Field, std: Field, noted: Noted) -> tuple[Chunk, Chunk]:
        """The mean over all steps and the noise that they start from."""
        path = jnp.moveaxis(noted[PATH], 1, 0)

        def step(_: None, xs: tuple) -> tuple[None, tuple[Chunk, Chunk]]:
            time, x, x_next = xs
            at = jnp.full(x.shape[0], time)
            mean, spread = x - field(x, at) / self.steps, std(x, at)
            return None, (normal_log_density(x_next, mean, spread), normal_entropy(spread))

        xs = (jnp.asarray(times(self.steps)), path[:-1], path[1:])
        _, (density, entropy) = jax.lax.scan(step, None, xs)
        first = normal_log_density(path[0], jnp.zeros_like(path[0]), jnp.ones_like(path[0]))
        return (first + density.sum(axis=0)) / (self.steps + 1), entropy.mean(axis=0)


@dataclass(frozen=True)
class FPO:
    """No step is random but the first noise, and no density is known.

    The ratio of two policies is exp(mean_i(loss_i of the old - loss_i of the new)), loss_i being
    the mean square error of flow matching at one of a choice's stored points: what stands for the
    log-density of an entry is its share of - mean_i loss_i.

    Attributes:
        steps: K.
        points: stored for each choice.
    """

    steps: int
    points: int

    def sample(self, field: Field, std: Field, x: Chunk, key: PRNGKey) -> tuple[Chunk, Noted]:
        """Follow the field from x; the points are drawn as in imitation."""
        del std
        chunk = follow(field, x, self.steps)
        keys = jax.random.split(key, self.points)
        drawn = jax.vmap(noisy_point, (0, None), out_axes=1)(keys, chunk)
        return chunk, dict(zip((POINTS, TIMES, WANTED), drawn, strict=True))

    def log_density(self, field: Field, std: Field, noted: Noted) -> tuple[Chunk, Chunk]:
        """What stands for it; there is no entropy either: zeros."""
        del std

        def step(total: Chunk, xs: tuple) -> tuple[Chunk, None]:
            point, time, wanted = xs
            return total + jnp.square(field(point, time) - wanted), None

        xs = tuple(jnp.moveaxis(noted[name], 1, 0) for name in (POINTS, TIMES, WANTED))
        nothing = jnp.zeros_like(xs[0][0])
        error, _ = jax.lax.scan(step, nothing, xs)
        return -error / (self.points * np.prod(error.shape[1:])), nothing


def bounded_std(out: Chunk, low: float, high: float) -> Chunk:
    """Return standard deviations between two bounds, the logarithm of the variance tanh of `out`.

    RLinf's noise head (`noise_logvar_range`, whose numbers are standard deviations).
    """
    share = (jnp.tanh(out) + 1.0) / 2.0
    return jnp.exp(jnp.log(low) + share * (jnp.log(high) - jnp.log(low)))


def normal_entropy(std: Array) -> Array:
    """Entropy of each entry of a Normal [nat]: log(std sqrt(2 pi e))."""
    return jnp.log(std) + 0.5 * float(np.log(2.0 * np.pi * np.e))
