"""Success of a policy on a fixed grid of extremes of the physics, the same for every task."""

import dataclasses
import itertools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from mjx_serl.envs.appearance import LookConfig
from mjx_serl.envs.env import Env, EnvState, vary
from mjx_serl.envs.observation import Observer
from mjx_serl.envs.physics.registry import PHYSICS
from mjx_serl.envs.randomization import Drawn
from mjx_serl.envs.randomize import ON_TIME, Delay, Latency, Randomize
from mjx_serl.envs.selectors import GRIPPER, TABLE
from mjx_serl.training.episodes import EpisodeKeys, EpisodeResult, episode_keys, play_episodes
from mjx_serl.training.evaluate import with_unseen_words
from mjx_serl.training.policies import Policy
from mjx_serl.types import Actions, Obs, PRNGKey
from scenes.build import Scene

# Issue 11's extremes: sliding friction [1] of all that touches, mass of what lies free, delay of
# actions [s].
FRICTION, MASS, DELAY = (0.4, 1.5), (0.5, 2.0), (0.0, 0.06)
# Cameras mounted 2 cm and 3 deg away (root mean square over three axes), and another light.
_AXIS = 3.0**-0.5
LOOKS: Mapping[str, LookConfig] = {
    "camera 2 cm 3 deg": LookConfig(
        variants=17, camera_position=0.02 * _AXIS, camera_angle=3.0 * _AXIS
    ),
    "light": LookConfig(color=0.2, light=0.3),
}


@dataclasses.dataclass(frozen=True)
class Grid:
    """A task's worlds with the physics of the grid in place of what it randomises.

    Attributes:
        env: whose draws are those of a cell.
        cells: numbers that the worlds of a cell draw, by its name.
    """

    env: Env
    cells: Mapping[str, tuple[float, ...]]


def physics_grid(env: Env) -> Grid:
    """Return the grid of a task: friction, mass and action delay at their ends.

    What the task itself randomises is left out, but its noise and its other delays stay. Friction
    is of pads, table and all objects, held and fixed ones too: a contact has the larger of two.
    Masses are of the objects that nothing holds; a scene without any has no such axis. Raises
    InputError where the physics has one model for all worlds, or the delay is as long as an
    episode.
    """
    scene = env.scene
    free = tuple(name for name, entry in scene.objects.items() if len(entry.qpos_ids) == 7)
    grips = (GRIPPER,) if any(len(arm.pad_geom_ids) for arm in scene.arms.values()) else ()
    geoms = {scene.model.geom(i).name for i in range(scene.model.ngeom)}
    touching = (*grips, *_solid(scene), *((TABLE,) if TABLE in geoms else ()))
    terms = [
        Randomize(field="friction", selector=touching, range=FRICTION, operation="abs"),
        *([Randomize(field="mass", selector=free, range=MASS)] if free else []),
    ]
    axes = {"friction": FRICTION, **({"mass x": MASS} if free else {}), "delay": DELAY}
    units = {"delay": " s"}
    cells = {
        ", ".join(f"{k} {v:g}{units.get(k, '')}" for k, v in zip(axes, corner, strict=True)): corner
        for corner in itertools.product(*axes.values())
    }
    plain = dataclasses.replace(
        env, variation=None, physics=PHYSICS[env.physics.name](scene.model, 1)
    )
    task_latency: Latency = getattr(env.task, "latency", ON_TIME)
    latency = dataclasses.replace(task_latency, action=Delay(low=DELAY[0], high=DELAY[1]))
    noise = getattr(env.task, "noise", ())
    return Grid(vary(plain, terms=terms, noise=noise, latency=latency), cells)


def _solid(scene: Scene) -> tuple[str, ...]:
    """Names of the objects that touch anything: all but marks."""
    model = scene.model
    touches = (model.geom_contype | model.geom_conaffinity) != 0
    return tuple(name for name, entry in scene.objects.items() if touches[entry.geom_ids].any())


def play_grid(
    observer: Observer,
    grid: Grid,
    policy: Policy,
    key: PRNGKey,
    *,
    episodes: int,
    horizon: int = 1,
) -> EpisodeResult:
    """Play the same `episodes` starts in every cell; leaves are [cells, episodes].

    `horizon` is that of the policy's actions (`play_episodes`).
    """
    count = len(grid.cells)
    own = with_unseen_words(dataclasses.replace(observer, env=grid.env))
    keys = episode_keys(key, episodes=episodes, steps=grid.env.task.episode_steps)
    numbers = jnp.repeat(_numbers(grid), episodes, axis=0)
    keys = EpisodeKeys(
        starts=jnp.tile(keys.starts, count), look=keys.look, steps=keys.steps, drawn=Drawn(numbers)
    )

    def act(worlds: EnvState, pictures: Obs, key: PRNGKey) -> Actions:
        return policy(own.observe(worlds, pictures), key)

    result = play_episodes(own, act, keys, horizon=horizon, pause=True)[0]
    return jax.tree.map(lambda x: x.reshape(count, episodes), result)


def _numbers(grid: Grid) -> jax.Array:
    """Draws of the cells [cells, D]: those of the grid, then the middle of the task's delays."""
    assert grid.env.variation is not None
    draws = grid.env.variation.randomization.draws
    middle = [0.5 * (draw.low + draw.high) for draw in draws]
    rows = [list(numbers) + middle[len(numbers) :] for numbers in grid.cells.values()]
    return jnp.asarray(np.array(rows), jnp.float32)
