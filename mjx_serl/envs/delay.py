"""What comes late: the last few items in a ring of each world's state, and which one is there."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from mjx_serl.envs.randomization import Draw
from mjx_serl.envs.randomize import Delay
from mjx_serl.types import PRNGKey, PyTree
from scenes.contract.errors import InputError


@struct.dataclass
class Ring:
    """The latest items, newest first.

    Attributes:
        lag: how late they come now, in ticks of the line.
        rows: leaves [R, ...].
    """

    lag: Int[Array, "*n"]
    rows: PyTree


def at_age(ring: Ring, age: Int[Array, ""]) -> PyTree:
    """Return the item that was pushed `age` pushes before the last one."""
    return jax.tree.map(lambda x: x[age], ring.rows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """A delay in a world whose control steps take `ctrl_dt`.

    Attributes:
        name: of what comes late.
        delay: how late.
        ctrl_dt: seconds of a control step, of each of which one item is sent.
        ticks: parts of a control step that a delay is counted in.
        whole: whether it can only be a number of control steps.
    """

    name: str
    delay: Delay
    ctrl_dt: float
    ticks: int = 1
    whole: bool = False

    def check(self, *, episode_steps: int) -> None:
        """Raise InputError for a delay as long as an episode, or one that cannot be counted."""
        episode = episode_steps * self.ctrl_dt
        if self.delay.high >= episode:
            raise InputError(
                f"latency.{self.name} of up to {self.delay.high:g} s, allowed: less than the "
                f"episode's {episode:g} s"
            )
        for end in (self.delay.low, self.delay.high):
            steps = end / self.ctrl_dt
            if self.whole and abs(steps - round(steps)) > 1e-6:
                raise InputError(
                    f"latency.{self.name} of {end:g} s, allowed: whole control steps of "
                    f"{self.ctrl_dt:g} s; a shorter delay belongs to latency.action"
                )

    @property
    def draw(self) -> Draw:
        """The delay of an episode [s]; the least one is where growing ranges begin."""
        low, high = self.delay.low, self.delay.high
        return Draw(name=f"delay of {self.name}", low=low, high=high, nominal=low)

    def start(self, item: PyTree, seconds: Float[Array, ""]) -> Ring:
        """Return the ring of a world that has only ever seen `item`."""
        tick = self.ctrl_dt / self.ticks
        length = -(-math.ceil(self.delay.high / tick - 1e-4) // self.ticks) + 1
        rows = jax.tree.map(lambda x: jnp.broadcast_to(x, (length, *jnp.shape(x))), item)
        return Ring(self._lag(seconds), rows)

    def push(self, ring: Ring, item: PyTree, key: PRNGKey, t: Int[Array, ""]) -> Ring:
        """Return the ring after the item of control step `t`; its delay may be drawn anew."""
        rows = jax.tree.map(
            lambda old, new: jnp.concatenate([jnp.asarray(new)[None], old[:-1]]), ring.rows, item
        )
        return Ring(self._redrawn(ring.lag, key, t), rows)

    def at(self, ring: Ring, tick: int = 0) -> PyTree:
        """Return the newest item that is there, `tick` ticks after the last one was sent."""
        return at_age(ring, jnp.maximum(0, -((tick - ring.lag) // self.ticks)))

    def _lag(self, seconds: Float[Array, ""]) -> Int[Array, ""]:
        ticks = seconds / (self.ctrl_dt / self.ticks)
        # A command that arrives between two updates is taken up by the later one.
        whole = jnp.round(ticks) if self.whole else jnp.ceil(ticks - 1e-4)
        return whole.astype(jnp.int32)

    def _redrawn(self, lag: Int[Array, ""], key: PRNGKey, t: Int[Array, ""]) -> Int[Array, ""]:
        delay = self.delay
        if delay.period is None:
            return lag
        every = max(1, round(delay.period / self.ctrl_dt))
        k_hold, k_lag = jax.random.split(key)
        seconds = jax.random.uniform(k_lag, minval=delay.low, maxval=delay.high)
        change = (t % every == 0) & ~jax.random.bernoulli(k_hold, delay.hold)
        return jnp.where(change, self._lag(seconds), lag)
