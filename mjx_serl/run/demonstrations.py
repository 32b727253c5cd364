"""Record demonstrations of a task's scripted expert."""

from functools import partial
from pathlib import Path

import jax

from mjx_serl.data.demos import save_demos, select_episodes
from mjx_serl.envs.env import make_env
from mjx_serl.envs.observation import PixelConfig
from mjx_serl.training.collect import demonstrate
from mjx_serl.training.demonstrations import DemoConfig, demo_contract
from scenes.contract.demonstrations import check_new
from scenes.contract.errors import InputError
from scenes.contract.language import BYTES, TokenizerConfig
from scenes.contract.ranges import check_ranges, require_episodes, require_seed


def record_scripted(
    task: str,
    path: Path,
    *,
    episodes: int,
    noise: float | None,
    seed: int,
    pixels: PixelConfig,
    tokenizer: TokenizerConfig = BYTES,
) -> int:
    """Write `episodes` solved episodes of a task's scripted expert; returns their steps.

    Raises InputError for another kind of file or where the expert fails too often,
    FileExistsError where the file exists.
    """
    if path.suffix != ".npz":
        raise InputError(f"Demonstrations are .npz files, got '{path}'")
    require_episodes(episodes)
    require_seed(seed)
    check_ranges(DemoConfig(count=episodes, noise=noise))
    check_new(path)
    observer = pixels.build(make_env(task, max_worlds=2 * episodes, tokenizer=tokenizer))
    play = jax.jit(partial(demonstrate, observer, episodes=2 * episodes, noise=noise, states=True))
    rows, solved = jax.device_get(play(jax.random.key(seed)))
    chosen = select_episodes(rows, solved, episodes, hint="lower episodes or noise")
    save_demos(path, chosen, demo_contract(observer, states=True))
    return int(chosen.valid.sum())
