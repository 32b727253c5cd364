"""Golden samples: observations of held-out episodes and the actions that a bundle must repeat."""

import dataclasses
import io
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mjx_serl.envs.env import EnvState
from mjx_serl.envs.observation import FEATURES, Observer, PictureEncoder
from mjx_serl.envs.stacking import by_frame
from mjx_serl.envs.task import split_keys
from mjx_serl.training.episodes import EpisodeKeys, EpisodeStep, play_episodes
from mjx_serl.training.evaluate import ON_DEMAND, stream_key
from mjx_serl.training.scan import run_once
from mjx_serl.training.state import PolicyParams
from mjx_serl.training.trainer import Trainer
from mjx_serl.types import Obs, PRNGKey
from scenes.contract import manifest as names
from scenes.contract.errors import InputError

# Golden observations: every fourth of the first 24 of four episodes, 2.4 s of approach and grasp.
GOLDEN_WORLDS, GOLDEN_STEPS, GOLDEN_EVERY = 4, 24, 4


_GOLDEN_STREAM = 0xB0D1E5  # apart from what evaluate.py and policy.mp4 draw from ON_DEMAND


def golden_samples(
    trainer: Trainer, observer: Observer, params: PolicyParams, *, seed: int
) -> dict[str, np.ndarray]:
    """Observations "obs/<name>" [G, *shape] of episodes that nothing was trained or tested on.

    "actions" [G, H, A] are what the training process's own policy answers to them.
    """
    key = jax.random.fold_in(stream_key(seed, ON_DEMAND), _GOLDEN_STREAM)
    # On GPUs float32 products are TF32 unless asked for.
    with jax.default_matmul_precision("highest"):
        args = (params, key)
        play = partial(_play, trainer, observer)
        rows = jax.device_get(run_once(play, *args, traceable=trainer.traceable))
    return {k: x[::GOLDEN_EVERY].reshape(-1, *x.shape[2:]) for k, x in rows.items()}


def _play(
    trainer: Trainer,
    observer: Observer,
    params: PolicyParams,
    key: PRNGKey,
) -> dict[str, Array]:
    """Return rows [T, N, ...] of what the contract observes, and of the actions [T, N, H, A].

    A chunk is chosen at each step, and its first action played.
    """
    raw, encoder = _without_encoder(observer)

    def choose(worlds: EnvState, pictures: Obs, key: PRNGKey) -> Array:
        seen = pictures
        if encoder is not None:
            seen = {FEATURES: by_frame(encoder, pictures, observer.stack)}
        seen = observer.observe(worlds, seen)
        return trainer.choose(params, seen, key, deterministic=True).action

    def act(worlds: EnvState, pictures: Obs, key: PRNGKey) -> Array:
        return choose(worlds, pictures, key)[:, 0]

    def keep(step: EpisodeStep) -> dict[str, Array]:
        known = step.before.obs | step.pictures
        return {f"obs/{name}": known[name] for name in observer.contract.inputs.names} | {
            # The key is of no use: a deterministic policy draws nothing.
            names.ACTIONS_OUTPUT: choose(step.before, step.pictures, key)
        }

    keys = EpisodeKeys(
        starts=split_keys(key, GOLDEN_WORLDS),
        look=key,
        steps=jnp.broadcast_to(key, GOLDEN_STEPS),
    )
    return play_episodes(raw, act, keys, keep=keep)[1]


def _without_encoder(observer: Observer) -> tuple[Observer, PictureEncoder | None]:
    """Return an observer of the pictures themselves, and the encoder they would go through."""
    cameras = observer.cameras
    if cameras is None:
        return observer, None
    raw = dataclasses.replace(cameras, encoder=None)
    return dataclasses.replace(observer, cameras=raw), cameras.encoder


def npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Pack arrays by name as the bytes of an .npz file."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]
    return file.getvalue()


def check_against_golden(model: bytes, golden: Mapping[str, np.ndarray]) -> None:
    """Run the exported policy as a robot will; raises ValueError where it is another one."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    worst = 0.0
    for i, wanted in enumerate(golden[names.ACTIONS_OUTPUT]):
        obs = {s.name: golden[f"obs/{s.name}"][i : i + 1] for s in session.get_inputs()}
        (found,) = session.run([names.ACTIONS_OUTPUT], obs)
        worst = max(worst, float(np.abs(np.asarray(found)[0] - wanted).max()))
        # A NaN is not within the tolerance either.
        if not worst <= names.TOLERANCE:
            raise InputError(
                f"The exported policy differs from the trained one by {worst:.2e} at golden "
                f"observation {i}, allowed: {names.TOLERANCE}"
            )
