"""The trainer as a library: make worlds, train, load what was trained, read the replay."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Float

from mjx_serl.commands import OUTPUTS, open_run
from mjx_serl.config import TrainConfig as TrainConfig
from mjx_serl.envs.env import make_env
from mjx_serl.envs.observation import PixelConfig
from mjx_serl.envs.vector import Autoreset, VecEnv, vectorize
from mjx_serl.experiments import default_preset
from mjx_serl.experiments import preset as preset
from mjx_serl.run.checkpoint import CheckpointStore
from mjx_serl.run.evaluation import load_policy
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.hooks import Hook
from mjx_serl.run.loop import Output, Run
from mjx_serl.run.summary import Summary
from mjx_serl.training.policies import trained_policy
from mjx_serl.training.state import TrainState
from mjx_serl.types import Actions, Obs, Transition
from scenes.contract import manifest as names
from scenes.contract.errors import InputError, UnknownNameError
from scenes.contract.manifest import read_manifest, read_sums, sha256
from scenes.contract.names import require_fields
from scenes.contract.plugins import load_plugins as load_plugins
from scenes.contract.policy_contract import Contract
from scenes.contract.specs import ObsSpec
from scenes.contract.weights import read_safetensors


def make(
    task: str,
    num_envs: int = 1,
    *,
    physics: str | None = None,
    pixels: PixelConfig | None = None,
    autoreset: Autoreset = "pool",
) -> VecEnv:
    """Return `num_envs` worlds of a registered task.

    `reset(key) -> state`, `observe(state) -> obs`, `step(state, action) -> (state, transition)`
    are pure: jit and scan them as you like.

    Args:
        task: for example "franka/pick_cube"; KeyError names the allowed ones.
        num_envs: worlds stepped together.
        physics: "native", "mjx" or "warp"; None takes what fits the device.
        pixels: cameras; None observes the task's numbers.
        autoreset: see `VecEnv`.
    """
    load_plugins()
    env = make_env(task, physics=physics, max_worlds=num_envs)
    observer = (pixels or PixelConfig()).build(env)
    return vectorize(observer, num_envs=num_envs, autoreset=autoreset)


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A trained policy.

    Attributes:
        path: the run folder or bundle it is from.
        obs_spec: what it observes.
        contract: what its actions mean, and of which robot; None where no bridge could run it.
        horizon: actions of one answer, which are meant to be played one after the other.
        policy: observations [N, ...] to actions [N, A], [N, H, A] with a horizon above 1; jitted.
    """

    path: Path
    obs_spec: ObsSpec
    contract: Contract | None
    policy: Callable[[Obs, jax.Array], Actions]
    horizon: int = 1

    def act(self, obs: Obs, *, seed: int = 0) -> Float[np.ndarray, "N *H A"]:
        """Return the deterministic actions in [-1, 1] for observations with leading axis [N].

        They are [N, A], or with a horizon above 1 those of the next H control steps, [N, H, A].
        Raises KeyError for an observation that is not there.
        """
        observed = self.obs_spec.names
        missing = [name for name in observed if name not in obs]
        if missing:
            raise UnknownNameError(
                f"act: the policy also observes {missing}; given were {sorted(obs)}"
            )
        seen = {name: jnp.asarray(obs[name]) for name in observed}
        return np.asarray(self.policy(seen, jax.random.key(seed)))

    def replay(self, source: str = "online") -> Transition:
        """Return what the run's latest checkpoint stored, oldest first, leaves [T, N, ...].

        Args:
            source: "online", "demos" or another ring of the run; KeyError names them.
        """
        return _read_replay(_restore(self.path), source)


@dataclasses.dataclass(frozen=True)
class Result:
    """What training came to.

    Attributes:
        summary: None where a signal stopped the run.
        folder: of the run; `load(folder)` gives its policy.
    """

    summary: Summary | None
    folder: Path


def train(
    config: TrainConfig | str | None = None,
    *,
    hooks: Sequence[Hook] | None = None,
    outputs: Sequence[Output] = OUTPUTS,
    resume: Path | None = None,
    **changes: Any,
) -> Result:
    """Train to the end in this process.

    Args:
        config: the run, or the name of a preset; None takes the preset for this device.
        hooks: who listens; None takes the console and the files of train.py.
        outputs: what the run leaves beside its logs; default its videos and its bundle.
        resume: a run folder to go on with; `config` is then its own, and `changes` may be of
            total_env_steps, eval and run.
        changes: fields of the config to change.

    Raises KeyError, ValueError or MemoryError, with what is allowed, before anything starts.
    """
    load_plugins()
    if resume is not None:
        config = RunFolder.open(resume).read_config(TrainConfig)
    named = default_preset() if config is None else config
    cfg = preset(named) if isinstance(named, str) else named
    require_fields(TrainConfig, changes, kind="field of a run")
    cfg = dataclasses.replace(cfg, **changes)
    with open_run(cfg, resume, hooks=hooks, outputs=outputs) as run:
        return Result(run.train(resume=resume is not None), run.folder.path)


def load(path: Path | str) -> Loaded:
    """Return the policy of a run folder's latest good checkpoint, or of a bundle.

    Raises FileNotFoundError where there is neither, ValueError for a damaged one.
    """
    load_plugins()
    path = Path(path)
    return _load_bundle(path) if (path / names.MANIFEST).is_file() else _load_run(path)


def _load_run(path: Path) -> Loaded:
    run, params = load_policy(path)
    policy = jax.jit(trained_policy(run.trainer, params))
    observer, contract = run.observer, None
    seen = observer.obs_spec.policy
    if observer.has_contract:
        contract = dataclasses.replace(observer.contract, obs=seen, stack=1)
    return Loaded(path, seen, contract, policy, run.trainer.horizon)


def _load_bundle(path: Path) -> Loaded:
    sums = read_sums((path / names.SUMS).read_bytes())
    files = {name: (path / name).read_bytes() for name in sums}
    wrong = [name for name, data in files.items() if sha256(data) != sums[name]]
    if wrong:
        raise InputError(f"{path}: {', '.join(wrong)} is not what was exported")
    manifest = read_manifest(files[names.MANIFEST])
    contract, horizon = manifest.contract, manifest.horizon
    program = export.deserialize(bytearray(files[names.STABLEHLO]))
    params = {name: jnp.asarray(x) for name, x in read_safetensors(files[names.PARAMS]).items()}

    @jax.jit
    def policy(obs: Obs, key: jax.Array) -> Actions:
        del key  # it draws nothing
        # Exported for one observation at a time.
        rows = {name: x[:, None] for name, x in obs.items()}
        actions = jax.lax.map(lambda row: program.call(params, row)[0], rows)
        return actions[:, 0] if horizon == 1 else actions

    return Loaded(path, contract.inputs, contract, policy, horizon)


def _restore(path: Path) -> TrainState:
    folder = RunFolder.open(path)
    run = Run(folder.read_config(TrainConfig), folder)
    state, _, _ = CheckpointStore(run.folder.checkpoints).restore(run.trainer.state_shapes())
    return state


def _read_replay(state: TrainState, source: str) -> Transition:
    if source not in state.data:
        raise UnknownNameError(f"replay: no ring '{source}', there are {sorted(state.data)}")
    ring = jax.device_get(state.data[source])
    oldest, filled = int(ring.head) - int(ring.filled), int(ring.filled)
    rows = (oldest + np.arange(filled)) % ring.data.reward.shape[0]
    return jax.tree.map(lambda x: x[rows], ring.data)
