"""Who can be watched: the expert, a trained policy, random and zero actions."""

from pathlib import Path

from mjx_serl.envs.env import make_env
from mjx_serl.envs.observation import Observer, PixelConfig
from mjx_serl.registry import Registry
from mjx_serl.run.evaluation import load_policy
from mjx_serl.training.evaluate import ON_DEMAND, stream_key
from mjx_serl.viewing.film import (
    Player,
    Stage,
    build_players,
    build_stage,
    save_film,
    save_still,
    verdicts,
)
from mjx_serl.viewing.run_video import trained
from scenes.contract.errors import InputError


def build_cast(
    task: str, run: Path | None, name: str | None, *, size: int, episodes: int = 1
) -> tuple[Stage, Registry[Player], str]:
    """A task with its cameras and a side view, who can play it, and who shall.

    Args:
        task: a registered task; ignored where there is a run.
        run: a run folder: its own cameras keep their size, its policy plays as "trained".
        name: who plays; None is "trained" where there is a run, else "expert". KeyError names
            the allowed ones.
        size: width and height of all other cameras [px].
        episodes: worlds that will be played at once, at least 1.
    """
    if episodes < 1:
        raise InputError(f"episodes {episodes}, allowed: at least 1")
    if run is None:
        observer, pixels = Observer(make_env(task, max_worlds=episodes)), PixelConfig()
        players = build_players(observer.env)
    else:
        loaded, params = load_policy(run)
        observer, pixels = loaded.observer, loaded.cfg.pixels
        players = build_players(loaded.env)
        players.register("trained")(trained(loaded, params))
    chosen = name or ("trained" if run else "expert")
    players[chosen]  # refused before anything is drawn
    return build_stage(observer, pixels, size=size), players, chosen


def record(
    out: Path, stage: Stage, players: Registry[Player], name: str, *, episodes: int, seed: int
) -> str:
    """Film a player and say what came of it.

    Args:
        out: a .mp4 file, a .png file for a picture of the start only, or a folder for
            <task>-<name>.mp4.
        stage, players: from `build_cast`.
        name: who plays.
        episodes: how many.
        seed: picks the starts, which training never saw.
    """
    player, key = players[name], stream_key(seed, ON_DEMAND)
    single = out.suffix in (".mp4", ".png")
    path = out if single else out / f"{stage.env.name.replace('/', '-')}-{name}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        save_still(path, stage, key)
        return f"{path}: {', '.join(stage.cameras)}"
    footage = save_film(path, stage, player, key, episodes=episodes)
    return f"{path}: {verdicts(footage)}"
