"""Where the demonstrations of a run come from: a file, or the task's scripted expert."""

import dataclasses
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol

import jax
import numpy as np
from jaxtyping import Array, Bool

from mjx_serl.data.demos import DemoContract, load_demos, select_episodes
from mjx_serl.envs.observation import FEATURES, Observer, encoded
from mjx_serl.training.collect import demonstrate
from mjx_serl.training.evaluate import DEMOS
from mjx_serl.training.relabel import relabel, scene_digest, state_fields
from mjx_serl.training.scan import run_once
from mjx_serl.types import PRNGKey, Transition
from scenes.contract.demonstrations import OBS, array_names
from scenes.contract.errors import InputError
from scenes.contract.ranges import ranged
from scenes.contract.serialize import later_field

_ENCODED = 128  # pictures that are encoded at once
# Experts fail now and then: this many more episodes are played than are wanted.
SPARE_DEMOS = 1.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Demonstrations for the demo half of each batch.

    Attributes:
        count: scripted episodes made at the start of the run; 0 trains without demonstrations.
        noise: standard deviation of the noise on the expert's end-effector steps [m]; None is what
            the task's own expert copes with.
        file: a file of recorded demonstrations (.npz) to use instead of scripted ones.
        relabel: judge the steps of the file anew by this task, so that it may be of another task of
            the same scene, observations and actions, and of another time limit; it must hold the
            states of the simulator, as a file of record_demos.py does.
    """

    count: int = ranged(20, least=0)
    noise: float | None = ranged(None, least=0)
    file: Path | None = None
    relabel: bool = later_field(False)

    def build(self, observer: Observer) -> "Demonstrations | None":
        """Return the source, None without demonstrations; reads the file, plays nothing.

        Raises what `load_demos` does, and InputError where nothing can be judged anew.
        """
        if self.relabel:
            return RecordedDemos(self._relabelled(observer))
        if self.file is not None:
            return RecordedDemos(_read(self.file, observer))
        return ScriptedDemos(observer, self) if self.count else None

    def _relabelled(self, observer: Observer) -> Transition:
        if self.file is None:
            raise InputError(
                "--demos.relabel judges a recorded file anew: name it with --demos.file, or leave "
                "it out, for what the expert plays is this task's own"
            )
        if observer.judge is not None:
            raise InputError(
                "--demos.relabel asks the task, and in this run a classifier judges (--reward."
                "classifier), for which a file lacks the pictures; allowed: one of the two"
            )
        rows = load_demos(self.file, demo_contract(observer, states=True), relabel=True)
        rows = relabel(observer.env, rows)
        if getattr(observer.env.task, "sparse", False) and not np.any(rows.reward):
            raise InputError(
                f"{self.file}: '{observer.env.name}' pays for none of its "
                f"{rows.reward.shape[1]} episodes; allowed: one at least that solves this task"
            )
        return rows


def _read(path: Path, observer: Observer) -> Transition:
    """The rows of a file; its pictures as features, where the observer's encoder is frozen."""
    cameras = observer.cameras
    encoded_already = f"{OBS}{FEATURES}" in array_names(path)
    if cameras is None or cameras.encoder is None or encoded_already:
        return load_demos(path, demo_contract(observer))
    plain = dataclasses.replace(observer, cameras=dataclasses.replace(cameras, encoder=None))
    rows = load_demos(path, demo_contract(plain))
    encode = jax.jit(partial(encoded, cameras.encoder, cameras.config.cameras))
    lead, size = rows.reward.shape, rows.reward.size
    flat = {name: np.asarray(x).reshape(size, *x.shape[2:]) for name, x in rows.obs.items()}
    blocks = [
        jax.device_get(encode({name: _block(x, i) for name, x in flat.items()}))
        for i in range(0, size, _ENCODED)
    ]
    seen = {name: np.concatenate([block[name] for block in blocks])[:size] for name in blocks[0]}
    return rows.replace(obs={name: x.reshape(*lead, *x.shape[1:]) for name, x in seen.items()})


def _block(x: np.ndarray, begin: int) -> np.ndarray:
    """So many rows as one program reads, filled up with the last."""
    some = x[begin : begin + _ENCODED]
    return np.pad(some, [(0, _ENCODED - len(some)), *[(0, 0)] * (x.ndim - 1)], mode="edge")


class Demonstrations(Protocol):
    """Rows of demonstrations, made when they are asked for."""

    @property
    def size(self) -> tuple[int, int]:
        """Steps and episodes of the rows."""
        ...

    def shapes(self) -> Transition:
        """Return the rows [T, M, ...] as shapes or as they are."""
        ...

    def rows(self, key: PRNGKey) -> Transition:
        """Return the rows [T, M, ...] on the host."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class RecordedDemos:
    """Rows read from a file."""

    recorded: Transition

    @property
    def size(self) -> tuple[int, int]:
        """Steps and episodes of the rows."""
        steps, episodes = self.recorded.reward.shape
        return steps, episodes

    def shapes(self) -> Transition:
        """Return the rows."""
        return self.recorded

    def rows(self, key: PRNGKey) -> Transition:
        """Return the rows; nothing is drawn."""
        del key
        return self.recorded


@dataclasses.dataclass(frozen=True, eq=False)
class ScriptedDemos:
    """Rows played by the task's expert."""

    observer: Observer
    config: DemoConfig

    @property
    def size(self) -> tuple[int, int]:
        """Steps and episodes of the rows."""
        return self.observer.env.task.episode_steps, self.config.count

    def shapes(self) -> Transition:
        """Return the rows as shapes."""
        return self._shapes

    @cached_property
    def _shapes(self) -> Transition:
        cfg = self.config
        play = partial(demonstrate, self.observer, episodes=cfg.count, noise=cfg.noise)
        return jax.eval_shape(play, jax.random.key(0))[0]

    def rows(self, key: PRNGKey) -> Transition:
        """Return solved episodes; ValueError where the expert solves too few."""
        key = jax.random.fold_in(key, DEMOS)
        played = run_once(self._play, key, traceable=self.observer.traceable)
        rows, solved = jax.device_get(played)
        return select_episodes(rows, solved, self.config.count)

    def _play(self, key: PRNGKey) -> tuple[Transition, Bool[Array, " M"]]:
        episodes = round(SPARE_DEMOS * self.config.count) + 4
        return demonstrate(self.observer, key, episodes=episodes, noise=self.config.noise)


def demo_contract(observer: Observer, *, states: bool = False) -> DemoContract:
    """What demonstrations for this task and these cameras must agree on.

    With `states` also which arrays of the simulator's states there are, and of which scene.
    """
    env = observer.env
    contract = DemoContract.of(
        env.name,
        observer.stored_spec,
        env.action_spec,
        episode_steps=env.task.episode_steps,
        language=None if env.told is None else env.told.language,
    )
    if not states:
        return contract
    digest = scene_digest(env.scene.model)
    return dataclasses.replace(contract, states=state_fields(env), scene=digest)
