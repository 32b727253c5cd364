"""What play.py does: set up a task with its policies, write a video or a picture."""

from dataclasses import dataclass
from pathlib import Path

from mjx_serl.envs.env import make_env
from mjx_serl.envs.observation import Observer, PixelConfig
from mjx_serl.registry import Registry
from mjx_serl.run.evaluation import load_policy
from mjx_serl.training.evaluate import ON_DEMAND, stream_key
from mjx_serl.viewing.checkpoints import Checkpoints
from mjx_serl.viewing.episode_video import describe_success, save_episodes, save_start
from mjx_serl.viewing.live_world import Start
from mjx_serl.viewing.policies import WorldPolicy, build_policies
from mjx_serl.viewing.recorded_env import RecordedEnv, build_recorded_env
from scenes.contract.errors import InputError
from scenes.contract.files import require_writable
from scenes.contract.ranges import require_episodes, require_number
from scenes.fitted import with_fit

TRAINED = "trained"  # a run's policy
DEFAULT_TASK = "franka/pick_cube"
_FILES = (".mp4", ".png")


@dataclass(frozen=True)
class Playable:
    """What is played.

    Attributes:
        recorded: a task with all its cameras.
        policies: by which it can be.
        chosen: the name of the one that does.
        checkpoints: of a run, whose policy is `TRAINED`; None without one.
        start: where its world begins; None is where an episode does.
    """

    recorded: RecordedEnv
    policies: Registry[WorldPolicy]
    chosen: str
    checkpoints: Checkpoints | None = None
    start: Start | None = None


def build_playable(
    task: str | None,
    run: Path | None,
    name: str | None,
    *,
    size: int,
    episodes: int = 1,
    pixels: PixelConfig | None = None,
    robot_fit: Path | None = None,
) -> Playable:
    """Return a task with all its cameras and the policies it can be played by.

    Args:
        task: a registered task; None is the run's, else `DEFAULT_TASK`.
        run: a run folder: its own cameras keep their size, its policy is "trained".
        name: of the policy; None is "trained" where there is a run, else "expert". KeyError
            names the allowed ones.
        size: width and height of all other cameras [px].
        episodes: worlds that will be played at once, at least 1.
        pixels: what a task without a run is drawn from; a run brings its own.
        robot_fit: values of the robot of a task without a run.
    """
    require_episodes(episodes)
    require_number("size", size, least=1, most=4096, whole=True)
    checkpoints = None
    if run is None:
        env = make_env(task or DEFAULT_TASK, max_worlds=episodes, scene=with_fit(robot_fit))
        observer, pixels = Observer(env), pixels or PixelConfig()
        policies = build_policies(observer.env)
    else:
        if robot_fit is not None:
            raise InputError(f"Run '{run}' has the robot it was trained with: drop --robot-fit")
        loaded, params = load_policy(run)
        if task not in (None, loaded.cfg.task):
            raise InputError(f"Run '{run}' is of task '{loaded.cfg.task}', got '{task}': drop one")
        observer, pixels = loaded.observer, loaded.cfg.pixels
        policies = build_policies(loaded.env)
        checkpoints = Checkpoints(loaded, params)
        policies.register(TRAINED)(checkpoints.policy)
    chosen = name or (TRAINED if run else "expert")
    if chosen == TRAINED and run is None:
        raise InputError("Policy 'trained' is a run's: name it with --run RUN_FOLDER")
    policies[chosen]  # an unknown name is refused before anything is drawn
    recorded = build_recorded_env(observer, pixels, size=size)
    return Playable(recorded, policies, chosen, checkpoints)


def require_output(out: Path) -> None:
    """Raise InputError or OSError, before anything is played, where `save_play` cannot write."""
    single = out.suffix in _FILES
    if out.suffix and not single and not out.is_dir():
        raise InputError(f"Cannot write '{out}', allowed: {', '.join(_FILES)}, or a folder")
    (out.parent if single else out).mkdir(parents=True, exist_ok=True)
    require_writable(out if single else out / "video.mp4")


def save_play(
    out: Path,
    playable: Playable,
    *,
    episodes: int,
    seed: int,
) -> str:
    """Write a video or a picture; returns a line that says where it is and what it shows.

    Args:
        out: a .mp4 file, a .png file for a picture of the start only, or a folder for
            <task>-<name>.mp4.
        playable: from `build_playable`.
        episodes: how many.
        seed: picks the starts, which training never saw.
    """
    recorded, name = playable.recorded, playable.chosen
    policy, key = playable.policies[name], stream_key(seed, ON_DEMAND)
    path = out
    if out.suffix not in _FILES:
        path = out / f"{recorded.env.name.replace('/', '-')}-{name}.mp4"
    if path.suffix == ".png":
        save_start(path, recorded, key)
        return f"{path}: {', '.join(recorded.cameras)}"
    played = save_episodes(path, recorded, policy, key, episodes=episodes)
    return f"{path}: {describe_success(played)}"
