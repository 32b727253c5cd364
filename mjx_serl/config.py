"""The whole run as one frozen dataclass; `build` turns it into functions."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mjx_serl.envs.env import make_env
from mjx_serl.envs.judge import RewardConfig
from mjx_serl.envs.observation import Observer, PixelConfig
from mjx_serl.envs.vector import default_pool
from mjx_serl.nets.classifier import RewardClassifier, load_classifier
from mjx_serl.nets.frozen import FrozenEncoder, load_encoder
from mjx_serl.training.from_actors import from_actors
from mjx_serl.training.fsdp import FSDPConfig
from mjx_serl.training.off_policy import OffPolicy, OffPolicyConfig
from mjx_serl.training.pair import Pair
from mjx_serl.training.pair_from_actors import pair_from_actors
from mjx_serl.training.placement import PlacementConfig
from mjx_serl.training.trainer import METHODS, Trainer
from scenes.contract.errors import InputError
from scenes.contract.language import BYTES, TokenizerConfig
from scenes.contract.operator import Device
from scenes.contract.plugins import load_plugins
from scenes.contract.ranges import (
    MOST_EPISODES,
    MOST_SEED,
    check_ranges,
    ranged,
    require_number,
)
from scenes.contract.robot_fit import load_robot_fit
from scenes.contract.serialize import later_field, open_field
from scenes.fitted import with_fit


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Evaluation on episodes that training never starts from.

    Attributes:
        every_epochs: epochs between two checks during training.
        check_episodes: episodes of a check.
        episodes: episodes of the final evaluation; its starts are not those of the checks.
        stop_at: training ends early once `stop_checks` checks in a row reach this success
            rate; above 1 never. Also `--stop-at`.
        stop_checks: see `stop_at`.
        grid: episodes in each cell of a grid of extremes of the physics, played at the end
            (`mjx_serl.training.robustness`); 0 plays none.
    """

    every_epochs: int = ranged(5, least=1)
    check_episodes: int = ranged(100, least=1, most=MOST_EPISODES)
    episodes: int = ranged(100, least=1, most=MOST_EPISODES)
    stop_at: Annotated[float, tyro.conf.arg(aliases=("--stop-at",))] = ranged(0.99, above=0)
    stop_checks: int = ranged(2, least=1)
    grid: int = later_field(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where the run is kept.

    Attributes:
        folder: the folder of all runs.
        name: of this run; None makes one from task, agent, seed and a number.
        checkpoint_seconds: time between two checkpoints [s].
        keep_checkpoints: checkpoints kept on disk.
        tensorboard: write TensorBoard event files.
        video: write worlds.png (at each check) and policy.mp4 (at the end): auto where the
            policy has cameras, on also records a run without, off never.
        bundle: export the policy for a robot at the end.
        tracker: send the run's figures to a tracker of others, which must be installed.
        dashboard: serve a page with the runs of the folder while this one trains
            (`python -m mjx_serl.dashboard` serves it without). Also `--dashboard`.
    """

    folder: Path = Path("runs")
    name: str | None = None
    checkpoint_seconds: float = ranged(20.0, least=0)
    keep_checkpoints: int = ranged(2, least=1)
    tensorboard: bool = True
    video: Literal["auto", "on", "off"] = "auto"
    bundle: bool = True
    tracker: Literal["none", "wandb", "trackio", "mlflow"] = later_field("none")
    dashboard: Annotated[bool, tyro.conf.arg(aliases=("--dashboard",))] = later_field(False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PilotConfig:
    """A page in the browser from which a person takes over in a world beside the training.

    Attributes:
        serve: serve it, on this machine only. Also `--pilot`.
        port: of the page; one of the next nine if it is taken.
        view: serve the world in three dimensions too, on a page of its own.
        device: what is driven with beside the page's keys, sticks and gamepad.
        size: width and height of the pictures on it that the policy does not see [px].
        rows: steps of episodes with interventions that are kept to learn from.
        worlds: that the page shows; you drive the one that you choose.
        pause: the epochs wait while you drive, which the page can change: on few cores they slow
            the pictures.
    """

    serve: Annotated[bool, tyro.conf.arg(aliases=("--pilot",))] = False
    port: int = ranged(8011, least=1, most=65535)
    view: bool = False
    device: Device = "page"
    size: int = ranged(128, least=16, most=1024)
    rows: int = ranged(10_000, least=16)
    worlds: Literal[1, 2, 3, 4] = later_field(1)
    pause: bool = later_field(False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActorsConfig:
    """Arms elsewhere (`deploy.py --learner`) whose steps a run learns from, in place of its worlds.

    Attributes:
        address: where to listen for them: a folder (ipc), or HOST:PORT; beyond this machine only
            with keys (python -m robot_bridge keys). None steps worlds. Also `--listen`.
        behind: steps that may wait to be learned from; where there are more, arms are asked to wait
            before their next episode, so that the updates per step do not fall.
        sync: let arms wait before each episode until everything has been learned from, which can be
            repeated bit for bit.
        agentlace: port on which SERL's and HIL-SERL's own actors are listened to as well, on this
            machine alone (ssh -R from elsewhere): agentlace sends pickles, of which only plain
            values are read, and knows no keys. Parameters go out on the next port. Also
            `--listen-agentlace`.
        agentlace_version: that such an actor's TrainerConfig names: 0.0.1 of older agentlace, which
            SERL pins, 0.0.2 since it has a pipeline. It is compared by the actor, which says no
            more than that configs differ.
        agentlace_map: what is made of such an actor's observations, as OURS=THEIRS, where names do
            not say it (docs/demonstrations.md).
        publish_seconds: time between two versions of the parameters at least [s].
    """

    address: Annotated[str | None, tyro.conf.arg(aliases=("--listen",))] = None
    behind: int = ranged(500, least=1)
    sync: Annotated[bool, tyro.conf.arg(aliases=("--sync",))] = False
    agentlace: Annotated[int | None, tyro.conf.arg(aliases=("--listen-agentlace",))] = ranged(
        None, least=1024, most=65534
    )
    agentlace_version: Literal["0.0.1", "0.0.2"] = later_field("0.0.2")
    agentlace_map: tuple[str, ...] = ()
    publish_seconds: float = ranged(1.0, least=0)

    @property
    def pace(self) -> int:
        """Steps in front of the learner from which on arms wait."""
        return 0 if self.sync else self.behind


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run. Start from a preset (`--preset`), change any field.

    Attributes:
        preset: the named starting point, see `mjx_serl/experiments.py`.
        task: a registered task, for example franka/pick_cube.
        seed: of everything random in the run.
        physics: native (C MuJoCo on CPU threads), mjx, warp, or auto for what fits the device.
        pixels: cameras; none by default.
        tokenizer: of what the worlds of a task with instructions are told; no matter elsewhere.
        num_envs: worlds stepped together.
        total_env_steps: control steps of all worlds after which training ends.
        total_updates: gradient steps after which it ends, if that is sooner; None leaves it to the
            env steps, and to 20,000 updates where the method takes no env steps.
        plugins: modules that register what the run needs and is not ours (`--plugin`).
        devices: of this machine that train together, in one process: each has an equal share of
            the worlds, the replay and every batch; "auto" is all GPUs, and one CPU. More than one
            CPU is for trying it out: they share the cores. A resumed run may have another number.
        fsdp: parameters that they hold together (docs/scale.md). A resumed run may change it.
        placement: of on-policy training, devices for worlds apart from those of the policy.
        init: a run folder, of whose agent's parameters and observation statistics the run begins;
            its replay, optimisers and worlds are not taken. Or a checkpoint of openpi, where the
            agent's net is one of openpi's (docs/vla.md).
        robot_fit: a robot_fit.json of `python -m mjx_serl.sysid`, whose values the task's robot
            takes in place of its nominal ones.
        robot_fit_digest: of what that file held when the run began, which the run fills in; a run
            whose file has changed since is refused.
        robot_fit_varies: each world draws its arm from the 95 % intervals of that file, and gets
            actions as late as was found.
        reward: what pays and ends episodes: the task, or a classifier of pictures.
        method: how it is trained, with its agent.
        pilot: a person who takes over.
        actors: arms elsewhere.
        eval: evaluation.
        run: the run folder.
    """

    preset: str = "laptop"
    task: str = "franka/pick_cube"
    seed: int = ranged(0, least=0, most=MOST_SEED)
    physics: Literal["auto", "native", "mjx", "warp"] = "auto"
    pixels: PixelConfig = dataclasses.field(default_factory=PixelConfig)
    plugins: tyro.conf.Suppress[tuple[str, ...]] = ()
    num_envs: int = ranged(8, least=1)
    total_env_steps: int = ranged(100_000, least=1)
    total_updates: int | None = later_field(None)
    devices: int | Literal["auto"] = later_field(1)
    fsdp: FSDPConfig = later_field(FSDPConfig())
    placement: PlacementConfig = later_field(PlacementConfig())
    init: Path | None = later_field(None)
    robot_fit: Path | None = later_field(None)
    robot_fit_digest: tyro.conf.Suppress[str] = later_field("")
    robot_fit_varies: bool = later_field(False)
    reward: RewardConfig = later_field(RewardConfig())
    tokenizer: TokenizerConfig = later_field(BYTES)
    # Of any registered class. Without a prefix its options are --agent.lr, not --method.agent.lr.
    method: Annotated[Any, tyro.conf.arg(name="")] = open_field(METHODS, OffPolicyConfig)
    pilot: PilotConfig = later_field(PilotConfig())
    actors: ActorsConfig = later_field(ActorsConfig())
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)
    run: RunConfig = dataclasses.field(default_factory=RunConfig)

    @property
    def agent_name(self) -> str:
        """What the learner is called in folders and tables."""
        images = bool(self.pixels.cameras) and self.pixels.frozen is None
        return self.method.label(images=images)

    @staticmethod
    def upgrade(data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Configs written before there was a choice of methods, as of today.

        What a run's plug-ins registered is needed to read the rest.
        """
        load_plugins(data.get("plugins", ()))
        data = {"plugins": [], **data}
        if "method" in data or "agent" not in data:
            return data
        parts = {name: data[name] for name in ("loop", "demos") if name in data}
        method = {"type": "off_policy", "agent": {"type": "sac", **data["agent"]}, **parts}
        rest = {k: v for k, v in data.items() if k not in ("agent", "loop", "demos")}
        return rest | {"method": method}

    def check(self) -> None:
        """Raise InputError for a number out of range, or options that do not go together."""
        check_ranges(self, flat=("method",))
        if self.total_updates is not None:
            require_number("total_updates", self.total_updates, least=1, whole=True)
        require_number("eval.grid", self.eval.grid, least=0, most=MOST_EPISODES, whole=True)
        if self.robot_fit_varies and self.robot_fit is None:
            raise InputError("robot_fit_varies without a fit, allowed: with --robot-fit FILE")
        if self.devices != "auto":
            require_number("devices", self.devices, least=1, whole=True)
        if self.devices != 1 and (self.pilot.serve or self.actors.address is not None):
            raise InputError(
                f"--devices {self.devices} with {'--pilot' if self.pilot.serve else '--listen'}, "
                "allowed: 1"
            )
        if self.placement.named and self.fsdp.enable:
            raise InputError("--placement with --fsdp, allowed: one of them")
        self.method.check(num_envs=self.num_envs)

    def build_observer(self) -> Observer:
        """Compile the task's scene and prepare its cameras.

        Raises KeyError, ValueError or RuntimeError with the allowed values.
        """
        self.check()
        episodes = max(self.eval.check_episodes, self.eval.episodes)
        pool_size = getattr(self.method, "pool_size", default_pool)
        most = max(self.num_envs, episodes, pool_size(self.num_envs))
        physics = None if self.physics == "auto" else self.physics
        path = self.pinned_fit().robot_fit
        fit = load_robot_fit(path) if path is not None and self.robot_fit_varies else None
        env = make_env(
            self.task,
            physics=physics,
            max_worlds=most,
            scene=with_fit(path),
            fit=fit,
            tokenizer=self.tokenizer,
        )
        judge = self.reward.build(env, self._classifier())
        observer = self.pixels.build(env, _frozen_encoder(self.pixels))
        return observer if judge is None else dataclasses.replace(observer, judge=judge)

    def _classifier(self) -> RewardClassifier | None:
        """The classifier that judges; InputError where it is not for this task and its cameras."""
        file = self.pinned_classifier().reward.classifier
        if file is None:
            return None
        classifier, _ = load_classifier(file)
        classifier.check(self.task, self.pixels.cameras, self.pixels.size)
        return classifier.with_threshold(self.reward.threshold)

    def pinned_classifier(self) -> "TrainConfig":
        """Return it with the absolute path and the digest of its classifier.

        Raises FileNotFoundError, and InputError where there is a digest that differs.
        """
        reward = self.reward
        if reward.classifier is None:
            return self
        found = load_classifier(reward.classifier)[0].digest
        if reward.digest not in ("", found):
            raise InputError(
                f"{reward.classifier} has changed since the run began (digest {found[:12]}..., "
                f"then {reward.digest[:12]}...): put the old file back, or begin a new run"
            )
        reward = dataclasses.replace(reward, classifier=reward.classifier.resolve(), digest=found)
        return dataclasses.replace(self, reward=reward)

    def pinned_fit(self) -> "TrainConfig":
        """Return it with the absolute path and the digest of its robot fit.

        Raises FileNotFoundError, and InputError where there is a digest that differs.
        """
        if self.robot_fit is None:
            return self
        found = load_robot_fit(self.robot_fit).digest
        if self.robot_fit_digest not in ("", found):
            raise InputError(
                f"{self.robot_fit} has changed since the run began (digest {found[:12]}..., then "
                f"{self.robot_fit_digest[:12]}...): put the old file back, or begin a new run"
            )
        return dataclasses.replace(self, robot_fit=self.robot_fit.resolve(), robot_fit_digest=found)

    def build(self, observer: Observer) -> Trainer:
        """The functions of the run; `observer` is from `build_observer`."""
        trainer = self.method.build(observer, num_envs=self.num_envs)
        if self.actors.address is not None:
            return self._fed(trainer)
        if not self.pilot.serve:
            return trainer
        with_people = getattr(trainer, "with_people", None)
        if with_people is None:
            raise InputError(
                f"--pilot with --method {METHODS.name_of(type(self.method))}, which cannot learn "
                "from people, allowed: off_policy, hg_dagger"
            )
        return with_people(self.pilot.rows)

    def _fed(self, trainer: Trainer) -> Trainer:
        if not isinstance(trainer, OffPolicy | Pair) or self.pilot.serve:
            raise InputError(
                f"--listen with --method {METHODS.name_of(type(self.method))}"
                f"{' and --pilot' if self.pilot.serve else ''}, allowed: off_policy, pair; people "
                "take over at the arms (deploy.py --operator)"
            )
        if isinstance(trainer, OffPolicy):
            return from_actors(trainer)
        if self.actors.agentlace is not None:
            raise InputError(
                "--listen-agentlace with a task by turns, of which SERL's actors do not say whose "
                "turn it is; allowed: --listen alone"
            )
        return pair_from_actors(trainer)


def _frozen_encoder(pixels: PixelConfig) -> FrozenEncoder | None:
    if pixels.frozen is None:
        return None
    return load_encoder(
        pixels.frozen, cameras=pixels.cameras, size=pixels.size, readout=pixels.readout
    )
