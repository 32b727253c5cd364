"""What every environment promises, and how it is seen that one does not keep it.

It imports JAX: scripts import it once the platform is prepared.
"""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from mjx_serl.envs.observation import PixelConfig
from mjx_serl.envs.vector import select_worlds
from scenes.contract.specs import ObsField

if TYPE_CHECKING:
    from mjx_serl.envs.env import Env, EnvState

# Observations are below this many times their scale; our bound, for what has gone astray.
FAR = 1000.0
PICTURE = 32  # [px]
# Share of each position and velocity, one deviation: what MJX in float32 leads a Panda's
# joints astray in one free control step (2e-5 rad, measured on dual_franka/handover).
MOVED = 2e-5
_MOVES = 32  # draws


@struct.dataclass
class Played:
    """N worlds after each of T control steps, ended ones put back to their start.

    Attributes:
        obs: by name, [T, N, ...].
        qpos: joint positions.
        reward: of the step.
        terminated, truncated, valid: as in `EnvState`.
        t: control steps since the start.
    """

    obs: dict[str, Array]
    qpos: Float[Array, "T N nq"]
    reward: Float[Array, "T N"]
    terminated: Bool[Array, "T N"]
    truncated: Bool[Array, "T N"]
    valid: Bool[Array, "T N"]
    t: Int[Array, "T N"]


def player(env: "Env", *, worlds: int, steps: int) -> Any:
    """Return a compiled function of a key: the last worlds and `Played`."""

    def play(key: Array) -> "tuple[EnvState, Played]":
        k_start, k_act = jax.random.split(key)
        start = jax.vmap(env.reset)(jax.random.split(k_start, worlds))

        def step(state: "EnvState", key: Array) -> "tuple[EnvState, Played]":
            action = jax.random.uniform(key, (worlds, env.action_dim), minval=-1.0, maxval=1.0)
            now = jax.vmap(env.step)(state, action)
            ends = now.terminated, now.truncated
            row = Played(now.obs, now.sim.qpos, now.reward, *ends, now.valid, now.t)
            return select_worlds(ends[0] | ends[1], start, now), row

        return jax.lax.scan(step, start, jax.random.split(k_act, steps))

    return jax.jit(play)


def broken_promises(env: "Env", played: Played) -> list[str]:
    """Return what an environment did that it must not do, a line each.

    Args:
        env: one world.
        played: on the host.
    """
    return [
        *_of_the_spec(env, played),
        *_of_the_ends(env, played),
        *([] if played.valid.all() else [f"{np.sum(~played.valid)} invalid steps"]),
        *([] if np.isfinite(played.qpos).all() else ["joint positions are not finite"]),
        *([] if np.isfinite(played.reward).all() else ["rewards are not finite"]),
    ]


def _of_the_spec(env: "Env", played: Played) -> Iterator[str]:
    spec, lead = env.obs_spec, played.t.shape
    if set(played.obs) != set(spec.names):
        yield f"observes {sorted(played.obs)}, says {sorted(spec.names)}"
    for field in spec.fields:
        yield from _of_a_field(field, np.asarray(played.obs[field.name]), lead)


def _of_a_field(field: ObsField, seen: np.ndarray, lead: tuple[int, ...]) -> Iterator[str]:
    wanted = (*lead, *field.shape), field.dtype
    if (seen.shape, seen.dtype) != wanted:
        yield f"{field.name} is {seen.dtype}{list(seen.shape)}, says {wanted}"
    if not np.isfinite(seen).all():
        yield f"{field.name} is not finite"
    elif np.abs(seen).max() > FAR * field.scale:
        yield f"{field.name} reaches {np.abs(seen).max():.3g} {field.unit}"


def _of_the_ends(env: "Env", played: Played) -> Iterator[str]:
    limit, t = env.task.episode_steps, played.t
    ended = played.terminated | played.truncated
    if (played.terminated & played.truncated).any():
        yield "terminated and truncated in one step"
    if (played.truncated != ((t >= limit) & ~played.terminated)).any():
        yield f"truncated elsewhere than at {limit} steps"
    if t.max() > limit:
        yield f"an episode has {t.max()} of {limit} steps"
    before = np.where(ended[:-1], 0, t[:-1])
    if (t[0] != 1).any() or (t[1:] != before + 1).any():
        yield "steps are not counted one by one"


def same_bits(one: Played, other: Played) -> bool:
    """Return whether two runs are equal to the last bit."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def seen_wrong(env: "Env", worlds: "EnvState") -> list[str]:
    """Return what is wrong with small pictures of worlds [N], one line each."""
    cameras = tuple(camera.name for camera in env.scene.spec.cameras)
    # Few splats, all drawn: what is asked is that they are drawn.
    config = PixelConfig(cameras=cameras, size=PICTURE, splats=500, cached=False)
    observer = config.build(env)
    num = worlds.t.shape[0]
    look = observer.looks(jax.random.key(0), num)
    draw = jax.jit(observer.pictures) if observer.traceable else observer.pictures
    seen = jax.device_get(observer.observe(worlds, draw(worlds, look)))
    own = {field.name for field in env.obs_spec.fields if not field.privileged}
    faults = [] if set(seen) == own | set(cameras) else [f"observes {sorted(seen)}"]
    for name in cameras:
        shape = (num, PICTURE, PICTURE, 3)
        if (seen[name].shape, seen[name].dtype) != (shape, np.uint8):
            faults.append(f"{name} is {seen[name].dtype}{list(seen[name].shape)}")
        if seen[name].std(axis=(1, 2)).max() < 5.0:
            faults.append(f"{name} sees nothing")
    return faults


def differences(one: Played, other: Played) -> Float[np.ndarray, " T"]:
    """Return the largest difference of joint positions after each control step [rad], [m]."""
    return np.abs(np.asarray(one.qpos) - np.asarray(other.qpos)).max(axis=(1, 2))


@dataclasses.dataclass(frozen=True)
class StepGap:
    """Largest differences of joint positions after one control step from equal states.

    Attributes:
        robot: of the robots' joints [rad], [m].
        objects: of all others.
    """

    robot: float
    objects: float


def step_differences(
    native: "Env", other: "Env", key: Array, *, worlds: int, steps: int
) -> tuple[StepGap, StepGap]:
    """Return how far another physics leads from native in one control step, and native from itself.

    Native plays the steps; from each state on its way both make the next one anew. The second is
    of native from states that are moved by `MOVED`: an object that tumbles or slips makes
    differences of that size large, whoever computes it.
    """

    def play(key: Array) -> "tuple[EnvState, Array]":
        k_start, k_act = jax.random.split(key)
        start = jax.vmap(native.reset)(jax.random.split(k_start, worlds))
        size = (steps, worlds, native.action_dim)
        actions = jax.random.uniform(k_act, size, minval=-1.0, maxval=1.0)

        def step(state: "EnvState", action: Array) -> "tuple[EnvState, EnvState]":
            now = jax.vmap(native.step)(state, action)
            return select_worlds(now.terminated | now.truncated, start, now), state

        return jax.lax.scan(step, start, actions)[1], actions

    def once(env: "Env") -> Any:
        def one(state: "EnvState", action: Array, qpos: Array, qvel: Array) -> Array:
            physics: Any = env.physics  # of worlds that do not vary
            carry, _ = physics.reset(qpos, qvel)
            return env.step(state.replace(carry=carry), action).sim.qpos

        play_all = jax.jit(jax.vmap(jax.vmap(one)))
        return lambda qpos, qvel: np.asarray(play_all(states, actions, qpos, qvel))

    states, actions = jax.jit(play)(key)
    at = states.sim.qpos, states.sim.qvel
    native_once = once(native)
    reached = native_once(*at)
    loose = np.concatenate([entry.qpos_ids for entry in native.scene.objects.values()]).astype(int)

    def gap(others: list[np.ndarray]) -> StepGap:
        gaps = np.max([np.abs(qpos - reached).max((0, 1)) for qpos in others], 0)
        return StepGap(float(np.delete(gaps, loose).max()), float(gaps[loose].max(initial=0.0)))

    moved = [
        tuple(x * (1.0 + MOVED * jax.random.normal(k, x.shape)) for x in at)
        for k in jax.random.split(key, _MOVES)
    ]
    return gap([once(other)(*at)]), gap([native_once(*start) for start in moved])
