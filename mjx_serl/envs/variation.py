"""How worlds of one task differ: physics, noise and delays, as functions of one world's draws."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from mjx_serl.envs.control.controller import Command, Control
from mjx_serl.envs.delay import Line
from mjx_serl.envs.physics.protocol import SimState
from mjx_serl.envs.randomization import Drawn, Randomization, build_randomization
from mjx_serl.envs.randomize import Delay, Latency, Noise, Randomize
from mjx_serl.types import Obs, PRNGKey, PyTree
from scenes.build import Scene
from scenes.contract.errors import InputError, UnknownNameError
from scenes.contract.names import unknown_name
from scenes.contract.specs import ObsSpec

# Streams of the key of a world's reset; a task's `sample` takes it as it is.
_DRAW, _NOISE, _ACTION, _OBSERVATION, _PICTURES = range(11, 16)
_STARTUP = 0  # key of what is drawn for the places that worlds are prepared in


@struct.dataclass
class Varied:
    """What a world has drawn, and what is on its way.

    Attributes:
        drawn: at its reset.
        key: of its noise and changing delays.
        commands: a `Ring` of those that the arm may not have heard yet; () without a delay.
        numbers: observations that the policy has not all seen yet; () likewise.
        poses: of the bodies, as pictures will show them; () likewise.
        truth: the observation without noise and delay, for critics; () where it is the one seen.
    """

    drawn: Drawn
    key: PRNGKey
    commands: PyTree = ()
    numbers: PyTree = ()
    poses: PyTree = ()
    truth: PyTree = ()


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Variation:
    """What a task randomises, compiled for its scene.

    Attributes:
        randomization: of the physics, and every draw.
        noise: standard deviation by name of the observation's fields [their units].
        lines: what comes late: "action", "observation", "pictures".
    """

    randomization: Randomization
    noise: Mapping[str, float]
    lines: Mapping[str, Line]

    def draw(
        self,
        key: PRNGKey,
        slot: Array | None = None,
        *,
        ends: tuple[Array, Array] | None = None,
    ) -> Drawn:
        """Return the draws of a world.

        Args:
            key: of its reset.
            slot: place that it is prepared in, see `Randomize.when`; None draws all with `key`.
            ends: narrower ends [D] than those of the ranges.
        """
        key = jax.random.fold_in(key, _DRAW)
        numbers = self._between(key, self.ends if ends is None else ends)
        startup = np.array([d.startup for d in self.randomization.draws], bool)
        if slot is not None and startup.any():
            fixed = self._between(jax.random.fold_in(jax.random.key(_STARTUP), slot), self.ends)
            numbers = jnp.where(startup, fixed, numbers)
        return Drawn(numbers)

    def begin(
        self, key: PRNGKey, drawn: Drawn, *, obs: Obs, command: Command, sim: SimState
    ) -> tuple[Obs, Varied]:
        """Return what is seen at the start of an episode, and what is on its way.

        `key` is that of the reset; see `Varied` for what is made of the rest.
        """
        seconds = self._seconds(drawn)
        varied = Varied(drawn=drawn, key=jax.random.fold_in(key, _NOISE))
        seen = self._noisy(obs, varied.key, jnp.zeros((), jnp.int32))
        items = {"action": command, "observation": seen, "pictures": (sim.xpos, sim.xquat)}
        rings = {n: line.start(items[n], seconds[n]) for n, line in self.lines.items()}
        return seen, varied.replace(
            commands=rings.get("action", ()),
            numbers=rings.get("observation", ()),
            poses=rings.get("pictures", ()),
            truth=obs if self._hides_truth else (),
        )

    def send(self, varied: Varied, command: Command, t: Array) -> Varied:
        """Return the state after the policy's side has sent the command of step `t`."""
        if "action" not in self.lines:
            return varied
        key = _stream(varied.key, _ACTION, t)
        line = self.lines["action"]
        return varied.replace(commands=line.push(varied.commands, command, key, t))

    def heard(self, varied: Varied) -> PyTree | None:
        """The commands that the arm's side follows at each update of a control step [K, ...]."""
        if "action" not in self.lines:
            return None
        line = self.lines["action"]
        told = [line.at(varied.commands, tick) for tick in range(line.ticks)]
        return jax.tree.map(lambda *x: jnp.stack(x), *told)

    def observe(self, varied: Varied, obs: Obs, sim: SimState, t: Array) -> tuple[Obs, Varied]:
        """Return what is seen of the state that control step `t` led to."""
        seen = self._noisy(obs, varied.key, t + 1)
        if "observation" in self.lines:
            line, key = self.lines["observation"], _stream(varied.key, _OBSERVATION, t)
            varied = varied.replace(numbers=line.push(varied.numbers, seen, key, t))
            seen = line.at(varied.numbers)
        if "pictures" in self.lines:
            line, key = self.lines["pictures"], _stream(varied.key, _PICTURES, t)
            poses = line.push(varied.poses, (sim.xpos, sim.xquat), key, t)
            varied = varied.replace(poses=poses)
        return seen, varied.replace(truth=obs) if self._hides_truth else varied

    def truth(self, varied: Varied, obs: Obs) -> Obs:
        """Return the observation without noise and delay."""
        return varied.truth if isinstance(varied.truth, dict) else obs

    @property
    def action_latency(self) -> tuple[float, float]:
        """Shortest and longest delay of commands [s]."""
        line = self.lines.get("action")
        return (0.0, 0.0) if line is None else (line.delay.low, line.delay.high)

    @property
    def camera_latency(self) -> float:
        """Age of the pictures, on average [s]."""
        line = self.lines.get("pictures")
        return 0.0 if line is None else 0.5 * (line.delay.low + line.delay.high)

    def shares(self, numbers: Float[Array, "*n D"]) -> Float[Array, "*n D"]:
        """Where draws lie in their ranges, from -1 at the low end to 1 at the high one."""
        low, high = (_scale(self.randomization, end) for end in self.ends)
        width = jnp.where(high > low, high - low, 1.0)
        at = _scale(self.randomization, numbers)
        return jnp.asarray(jnp.where(high > low, 2.0 * (at - low) / width - 1.0, 0.0))

    def between(
        self, start: Float[Array, " D"], share: Float[Array, "D 2"]
    ) -> tuple[Float[Array, " D"], Float[Array, " D"]]:
        """Ends that are a share of the way from numbers to the ends of the ranges."""
        low, high = (_scale(self.randomization, end) for end in self.ends)
        middle = _scale(self.randomization, start)
        grown = middle + share[:, 0] * (low - middle), middle + share[:, 1] * (high - middle)
        return _unscale(self.randomization, grown[0]), _unscale(self.randomization, grown[1])

    def _between(self, key: PRNGKey, ends: tuple[Any, Any]) -> Float[Array, " D"]:
        """One number for each draw, between these ends."""
        draws = self.randomization.draws
        low, high = (_scale(self.randomization, end) for end in ends)
        k_uniform, k_normal = jax.random.split(key)
        unit = jax.random.uniform(k_uniform, (len(draws),), minval=-1.0)
        normal = jax.random.truncated_normal(k_normal, -2.0, 2.0, (len(draws),)) / 2.0
        unit = jnp.where(np.array([d.normal for d in draws], bool), normal, unit)
        return _unscale(self.randomization, 0.5 * (low + high) + 0.5 * (high - low) * unit)

    @property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Low and high ends of all draws."""
        draws = self.randomization.draws
        return np.array([d.low for d in draws]), np.array([d.high for d in draws])

    @property
    def _hides_truth(self) -> bool:
        return bool(self.noise) or "observation" in self.lines

    def _seconds(self, drawn: Drawn) -> dict[str, Array]:
        first = len(self.randomization.draws) - len(self.lines)
        return {name: drawn.numbers[first + i] for i, name in enumerate(self.lines)}

    def _noisy(self, obs: Obs, key: PRNGKey, t: Array) -> Obs:
        noisy = dict(obs)
        for i, (name, std) in enumerate(self.noise.items()):
            k = jax.random.fold_in(_stream(key, _NOISE, t), i)
            noisy[name] = obs[name] + std * jax.random.normal(k, obs[name].shape)
        return noisy


def _scale(randomization: Randomization, numbers: Any) -> Any:
    """Numbers, or their logarithms where those are uniform."""
    log = np.array([d.log for d in randomization.draws], bool)
    return jnp.where(log, jnp.log(jnp.asarray(jnp.where(log, numbers, 1.0))), numbers)


def _unscale(randomization: Randomization, scaled: Any) -> Any:
    """The inverse of `_scale`."""
    log = np.array([d.log for d in randomization.draws], bool)
    return jnp.where(log, jnp.exp(jnp.asarray(jnp.where(log, scaled, 0.0))), scaled)


def _stream(key: PRNGKey, stream: int, t: Array) -> PRNGKey:
    return jax.random.fold_in(jax.random.fold_in(key, stream), t)


def build_variation(
    scene: Scene,
    *,
    terms: Sequence[Randomize],
    noise: Sequence[Noise],
    latency: Latency,
    control: Control,
    obs: ObsSpec,
    episode_steps: int,
) -> Variation | None:
    """Return what a task randomises, compiled; None where that is nothing.

    Raises InputError for a term that does not fit the scene, noise on a field that is not
    observed, or a delay as long as an episode.
    """
    for entry in noise:
        if entry.field not in obs.names:
            raise UnknownNameError(unknown_name("observation with noise", entry.field, obs.names))
    lines = _lines(latency, control)
    for line in lines.values():
        line.check(episode_steps=episode_steps)
    if not (terms or noise or lines):
        return None
    return Variation(
        randomization=build_randomization(terms, scene, [line.draw for line in lines.values()]),
        noise={entry.field: entry.std for entry in noise},
        lines=lines,
    )


def _lines(latency: Latency, control: Control) -> dict[str, Line]:
    parts: dict[str, tuple[Delay | None, int]] = {
        "action": (latency.action, round(control.inner_rate / control.rate)),
        "observation": (latency.observation, 1),
        "pictures": (latency.pictures, 1),
    }
    return {
        name: Line(
            name=name,
            delay=delay,
            ctrl_dt=1.0 / control.rate,
            ticks=ticks,
            whole=name != "action",
        )
        for name, (delay, ticks) in parts.items()
        if delay is not None
    }


def require_raised(task: object, terms: Sequence[Randomize]) -> None:
    """Raise InputError where objects are drawn higher than a task would know."""
    for term in terms:
        if term.field in ("size", "table_height") and not hasattr(task, "raised"):
            raise InputError(
                f"{term}: the task does not say what changes where objects lie higher, allowed: "
                "tasks with a method raised(task_state, rise)"
            )


def require_jacobian(controller: object, terms: Sequence[Randomize]) -> None:
    """Raise InputError where a control law cannot say where biased joints put the end effector."""
    for term in terms:
        if term.field == "encoder_bias" and not hasattr(controller, "jacobian"):
            raise InputError(
                f"{term}: this task's control law has no Jacobian, allowed: the laws dls and osc"
            )
