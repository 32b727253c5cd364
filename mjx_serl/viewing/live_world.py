"""One world in the memory of this process that is played a step at a time, by anyone."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from mjx_serl.envs.control.controller import Command
from mjx_serl.envs.control.kinematics import tool_quat
from mjx_serl.envs.env import EnvState
from mjx_serl.envs.physics.protocol import SimState
from mjx_serl.training.relabel import in_states, states_of
from mjx_serl.types import Obs, PRNGKey, PyTree
from mjx_serl.viewing.policies import WorldPolicy
from mjx_serl.viewing.recorded_env import RecordedEnv, Views

Start = Callable[[PRNGKey], tuple[EnvState, PyTree]]
Place = tuple[Float[np.ndarray, "3"], Float[np.ndarray, "4"]]  # [m], wxyz


@dataclass(frozen=True)
class Snapshot:
    """What one world shows at one step.

    Attributes:
        xpos: positions of the bodies and of what else has splats, see `RecordedEnv.poses` [m].
        xquat: their orientations (wxyz).
        pictures: by camera.
        step: control steps since the start.
        ended: whether the episode is over.
        success: whether the task is solved.
        not_finite: names of what is not finite in the simulator's state.
    """

    xpos: Float[np.ndarray, "B 3"]
    xquat: Float[np.ndarray, "B 4"]
    pictures: Mapping[str, UInt8[np.ndarray, "H W 3"]]
    step: int
    ended: bool
    success: bool
    not_finite: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a step came to; see `EnvState`."""

    reward: float
    terminated: bool
    truncated: bool
    valid: bool
    success: bool


class LiveWorld:
    """One world that any policy, or a person, plays a step at a time.

    Attributes:
        env: what it is a world of.
        splats: makes those of its scene, which move by the poses of `snapshot`.
        cameras: names of all cameras.
        dt: simulated time per step [s].

    Args:
        recorded: a task with all its cameras.
        seed: of the starts and the policies' noise.
        start: makes one world and its look of a key; None draws an episode's start.
    """

    def __init__(self, recorded: RecordedEnv, *, seed: int = 0, start: Start | None = None) -> None:
        self.cameras = recorded.cameras
        self.env = recorded.env
        self.dt = recorded.env.ctrl_dt
        observer = recorded.observer
        self._start = jax.jit(start or (lambda key: recorded.start(key, 1)))
        compiled = jax.jit if recorded.traceable else lambda function: function
        self._draw = compiled(recorded.pictures)
        self._remembered, self._nothing_seen = recorded.remembered, recorded.nothing_seen(1)
        self._poses = jax.jit(recorded.poses)
        self._choose = jax.jit(recorded.choose)  # compiled for a policy at its first step
        self._step = jax.jit(recorded.step)
        self.splats = recorded.splats
        self._stored = jax.jit(
            lambda world, views: observer.stored(observer.observe(world, views.observed))
        )
        self._plan: list[Float[Array, "1 A"]] = []  # what is left of the chunk of `_planner`
        self._planner: WorldPolicy | None = None
        self._key = jax.random.key(seed)
        self._world: EnvState
        self._before: EnvState  # the last step
        self._look: PyTree
        self._views: Views
        self.restart()

    def another(self, *, seed: int) -> "LiveWorld":
        """Return one more world of the same, which shares what is compiled."""
        made = copy.copy(self)
        made._key = jax.random.key(seed)
        made.restart()
        return made

    def restart(self) -> None:
        """Begin the next episode."""
        self._world, self._look = self._start(self._next_key())
        self._views = self._draw(self._world, self._look, self._nothing_seen)
        self._before = self._world
        self._ended = False
        self._plan = []

    @property
    def ended(self) -> bool:
        """Whether the episode is over."""
        return self._ended

    def step(self, policy: WorldPolicy) -> None:
        """Let a policy act once; nothing happens after an episode's end."""
        if not self._ended:
            self.play(self.choose(policy))

    def choose(self, policy: WorldPolicy) -> Float[Array, "1 A"]:
        """What a policy does now; of a chunk that it chose before, what comes next."""
        if not self._plan or policy is not self._planner:
            self._plan, self._planner = self._chosen(policy), policy
        return self._plan.pop(0)

    def play(self, action: Float[Array, "1 A"]) -> None:
        """Make a step."""
        self._before = self._world
        self._world, ended = self._step(self._world, action)
        self._views = self._draw(self._world, self._look, self._remembered(self._views))
        self._ended = bool(ended[0])

    def forget_plan(self) -> None:
        """Let the policy choose anew: somebody else has acted."""
        self._plan = []

    def observed(self) -> Obs:
        """What is stored of what a policy would answer now: numpy, of one world."""
        seen = jax.device_get(self._stored(self._world, self._views))
        return {name: x[0] for name, x in seen.items()}

    def outcome(self) -> Outcome:
        """What the last step came to."""
        world = self._world
        told = (world.reward, world.terminated, world.truncated, world.valid, world.success)
        reward, *flags = (x[0] for x in jax.device_get(told))
        return Outcome(float(reward), *map(bool, flags))

    def states(self) -> dict[str, np.ndarray]:
        """The state that the last step led to, as `states_of` names it, of one world."""
        states = jax.device_get(states_of(self._before, self._world))
        return {name: np.asarray(x[0]) for name, x in states.items()}

    def pictures_of(
        self, states: Mapping[str, np.ndarray]
    ) -> dict[str, UInt8[np.ndarray, "H W 3"]]:
        """What all cameras would see in a state of `states`; the world stays as it is."""
        then = in_states(self._world, {name: jnp.asarray(x)[None] for name, x in states.items()})
        return _first(self._draw(then, self._look, self._nothing_seen))

    def _chosen(self, policy: WorldPolicy) -> list[Float[Array, "1 A"]]:
        """The actions of a policy's answer, one after the other."""
        actions = self._choose(policy, self._world, self._views, self._next_key())
        return [actions] if actions.ndim == 2 else list(actions.swapaxes(0, 1))

    def pictures(self) -> dict[str, UInt8[np.ndarray, "H W 3"]]:
        """What all cameras see now."""
        return _first(self._views)

    def places(self) -> dict[str, Place]:
        """Where the tool is measured and where it was sent to, for tasks that command a pose."""
        command = self._world.command
        if not isinstance(command, Command) or self.env.scene.spec.robot is None:
            return {}
        scene = self.env.scene
        sim, target = jax.device_get((self._world.sim, command))
        tool = tool_quat(scene, np.asarray(sim.xquat[0]))
        return {
            "measured": (np.asarray(sim.site_xpos[0, scene.arm.ee_site_id]), tool),
            "target": (np.asarray(target.target[0]), np.asarray(target.target_quat[0])),
        }

    def poses(self) -> tuple[Float[np.ndarray, "B 3"], Float[np.ndarray, "B 4"]]:
        """Where the bodies are, and what else has splats; see `Snapshot`."""
        poses = jax.device_get(self._poses(self._world))
        return np.asarray(poses.xpos[0]), np.asarray(poses.xquat[0])

    def sim(self) -> SimState:
        """The state of the simulator, numpy, of one world."""
        return jax.tree.map(lambda x: x[0], jax.device_get(self._world.sim))

    def snapshot(self) -> Snapshot:
        """Return what the world shows now."""
        xpos, xquat = self.poses()
        step, success = jax.device_get((self._world.t, self._world.success))
        return Snapshot(
            xpos=xpos,
            xquat=xquat,
            pictures=self.pictures(),
            step=int(step[0]),
            ended=self._ended,
            success=bool(success[0]),
            not_finite=_not_finite(self.sim()),
        )

    def _next_key(self) -> PRNGKey:
        self._key, key = jax.random.split(self._key)
        return key


def _not_finite(sim: SimState) -> tuple[str, ...]:
    """Names of what is not finite, with how many entries of how many."""
    wrong = {field.name: ~np.isfinite(getattr(sim, field.name)) for field in fields(sim)}
    return tuple(f"{name} ({x.sum()} of {x.size})" for name, x in wrong.items() if x.any())


def _first(views: Views) -> dict[str, UInt8[np.ndarray, "H W 3"]]:
    """The pictures of the first world."""
    return {name: x[0] for name, x in jax.device_get(views.recorded).items()}
