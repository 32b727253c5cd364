"""A run that learns from what arms send: killed and resumed it is the same to the last bit."""

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from browser import wait_until
from tiny_bundle import tiny_config, with_changes
from whole_runs import Whole, reusing, train_whole

from mjx_serl.agents.sac import SACConfig
from mjx_serl.config import ActorsConfig
from mjx_serl.export.bundle import parameters_by_name
from mjx_serl.learning.companion import ACTOR, ACTORS, LearnerCompanion
from mjx_serl.learning.simulated_person import SimulatedPerson
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.loop import Companion, Run
from mjx_serl.run.programs import EpochFn
from mjx_serl.run.remote import tell
from mjx_serl.run.simulated_arm import build_world
from mjx_serl.training.demonstrations import DemoConfig
from mjx_serl.training.off_policy import LoopConfig
from mjx_serl.training.pair import PairConfig
from mjx_serl.training.state import TrainState
from robot_bridge.deploy.deployment import DeployConfig, Deployment, Talk
from robot_bridge.deploy.rigs import sim_rig
from robot_bridge.learning.learned_policy import LearnedPolicy
from robot_bridge.learning.link import LearningConfig
from robot_bridge.network.parameters import Parameters
from robot_bridge.network.spool import Spool
from robot_bridge.network.transition_client import TransitionClient
from robot_bridge.policy.bundle import Bundle, load_bundle
from scenes.contract.errors import InputError
from scenes.contract.policy_contract import TURN

EPISODES, LENGTH = 12, 7
ROWS_PER_EPOCH = 4


class Killed(BaseException):
    """The learner dies."""


class Kill(Companion):
    """Ends a run after some epochs, and saves nothing."""

    def __init__(self, after: int) -> None:
        self._after = after

    def start(self, run: Run) -> None:
        """Nothing."""

    def before_epoch(self, run: Run, state: TrainState, epoch: EpochFn) -> Any:
        if run.progress.epoch == self._after:
            raise Killed
        return state, epoch

    def close(self) -> None:
        """Nothing."""


def build_run(root: Path, *, kill: int | None = None, saves: bool = True) -> Run:
    """A learner that listens in `root`, new or to go on; it saves after each epoch, or never."""
    cfg = tiny_config(root, actors=ActorsConfig(address=str(root / "sock"), sync=True))
    loop = dataclasses.replace(cfg.method.loop, steps_per_epoch=ROWS_PER_EPOCH, buffer_size=200)
    method = dataclasses.replace(cfg.method, loop=loop)
    kept = dataclasses.replace(cfg.run, bundle=False, checkpoint_seconds=0.0 if saves else 1e6)
    cfg = dataclasses.replace(cfg, method=method, run=kept, total_env_steps=EPISODES * LENGTH)
    folder = RunFolder(root / "run")
    if not folder.path.exists():
        folder = RunFolder.create(root, task=cfg.task, agent="a", seed=0, name="run")
        folder.write_config(cfg)
    killer = [] if kill is None else [Kill(kill)]
    return Run(cfg, folder, companions=[LearnerCompanion(), *killer])


def episode(run: Run, number: int) -> dict[str, np.ndarray]:
    """An episode of an arm, drawn from its number."""
    rng, rows = np.random.default_rng(number), LENGTH
    fields = run.observer.contract.obs.fields
    last = np.arange(rows) == rows - 1
    won = number % 3 == 0
    return {f"obs/{f.name}": rng.normal(size=(rows, *f.shape)).astype(f.dtype) for f in fields} | {
        "action": rng.uniform(-1, 1, (rows, run.env.action_dim)).astype(np.float32),
        "reward": (last & won).astype(np.float32),
        "terminated": last & won,
        "truncated": last & (not won),
        "expert": rng.random(rows) < 0.3,
        "step": np.arange(rows, dtype=np.int32),
    }


@contextmanager
def arm(run: Run, root: Path) -> Iterator[TransitionClient]:
    """An arm that sends an episode whenever it may; it outlives the learner."""
    over = threading.Event()
    client = TransitionClient(f"ipc://{root}/sock/learner", spool=Spool(root / "spool"))
    sent = []

    def play() -> None:
        for number in range(EPISODES):
            while not client.wait(0.2):
                if over.is_set():
                    return
            client.put(episode(run, number))
            sent.append(number)

    thread = threading.Thread(target=play)
    thread.start()
    try:
        yield client
    finally:
        over.set()
        thread.join()
        client.close()


def last_state(run: Run) -> Any:
    state, *_ = run.store.restore(run.trainer.state_shapes())
    return state


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A run that nothing has interrupted, and what it was trained with."""
    root = tmp_path_factory.mktemp("whole")
    run = build_run(root)
    with arm(run, root):
        straight = train_whole(run)
    assert straight.summary is not None
    return straight


@pytest.fixture(scope="module")
def whole(straight: Whole) -> Run:
    """The run."""
    return straight.run


@pytest.fixture
def programs(straight: Whole) -> Iterator[None]:
    """Its programs are those of the others, which are of the same numbers.

    That another process makes the same is shown in tests/run/test_stopping.py, by kill -9.
    """
    with reusing(straight):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("saves", [True, False])
def test_killed_twice_it_has_the_same_rings_and_parameters(
    whole: Run, tmp_path: Path, saves: bool
) -> None:
    run = build_run(tmp_path, kill=4, saves=saves)
    with arm(run, tmp_path) as client:
        for kill in (11, None):
            with pytest.raises(Killed):
                run.train(resume=run.folder.checkpoints.exists())
            run = build_run(tmp_path, kill=kill, saves=saves)
        assert run.train(resume=saves) is not None
        assert client.flush(3.0)  # all of it is in the last checkpoint
    ours, theirs = last_state(run), last_state(whole)
    for (path, x), (_, y) in zip(
        jax.tree_util.tree_leaves_with_path(ours),
        jax.tree_util.tree_leaves_with_path(theirs),
        strict=True,
    ):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=str(path))


@pytest.mark.usefixtures("programs")
def test_what_came_since_the_checkpoint_that_it_went_on_from_is_not_called_saved(
    tmp_path: Path,
) -> None:
    """Where it is stopped before its next epoch, as when its arm has only begun."""

    def stop_after(run: Run, rows: int) -> None:
        (learner,) = run.companions
        assert isinstance(learner, LearnerCompanion)
        trained = threading.Thread(target=lambda: run.train(resume=rows > 0))
        trained.start()
        wait_until(
            lambda: learner.memory()[ACTORS]["rows"] == rows and (run.folder.path / ACTOR).is_dir()
        )
        tell(run.folder.path, "stop")
        trained.join(timeout=60)

    stop_after(build_run(tmp_path), 0)
    again = build_run(tmp_path)
    with TransitionClient(f"ipc://{tmp_path}/sock/learner", spool=Spool(tmp_path / "s")) as client:
        client.put(episode(again, 0))
        stop_after(again, LENGTH)
        assert client.pending == 1


def test_all_that_came_is_stored_once_and_what_a_person_did_is_known(whole: Run) -> None:
    ring = last_state(whole).data["online"].data
    valid = np.asarray(ring.valid)[:, 0]
    assert valid.sum() == EPISODES * LENGTH
    want = np.concatenate([episode(whole, n)["action"] for n in range(EPISODES)])
    np.testing.assert_array_equal(np.asarray(ring.action)[valid, 0], want)
    expert = np.concatenate([episode(whole, n)["expert"] for n in range(EPISODES)])
    np.testing.assert_array_equal(np.asarray(ring.expert)[valid, 0], expert)
    told = whole.folder.read_metrics()
    assert told == []  # nobody listened


@pytest.mark.slow
@pytest.mark.usefixtures("programs")
def test_the_simulated_arm_teaches_it(tmp_path: Path) -> None:
    """Learner, link, bridge and simulated arm together, as `learn.py` and `deploy.py` are."""
    run, summaries = build_run(tmp_path), []
    learner = threading.Thread(target=lambda: summaries.append(run.train()))
    learner.start()
    try:
        wait_until((run.folder.path / ACTOR).is_dir)
        actor = load_bundle(run.folder.path / ACTOR)
        world = build_world(actor.manifest.task, actor.contract, seed=0, episodes=20)
        link = LearningConfig(
            learner=str(tmp_path / "sock"), spool=tmp_path / "spool", noise_seed=0, grace=2.0
        )
        rows = EPISODES * LENGTH
        options = DeployConfig(episodes=rows // LENGTH + 1, seconds=0.1 * LENGTH, learning=link)
        said: list[str] = []
        talk = Talk(said.append, lambda asked: "")
        deployment = Deployment(options, actor, sim_rig(world, actor.contract), talk)
        deployment.run()
    finally:
        learner.join(timeout=60)
    assert summaries[0] is not None
    done = deployment.link
    assert done is not None and done.policy is not None
    assert done.experience.steps >= rows and done.experience.lost == 0
    assert done.policy.version == (rows - LENGTH) // ROWS_PER_EPOCH  # before the last episode
    ring = last_state(run).data["online"].data
    assert np.asarray(ring.valid).sum() >= rows
    assert f"{done.experience.steps} steps to the learner, 0 lost" in done.told


@pytest.mark.slow
def test_the_simulated_arm_teaches_two_parts_by_turns(tmp_path: Path) -> None:
    """Nothing is put back in between; the person who helps is the task's expert."""
    loop = LoopConfig(
        batch_size=16, updates_per_step=1, steps_per_epoch=50, warmup_steps=8, buffer_size=2000
    )
    cfg = tiny_config(
        tmp_path,
        task="franka/bin_relocation",
        actors=ActorsConfig(address=str(tmp_path / "sock"), sync=True),
        method=PairConfig(agent=SACConfig(hidden=(16, 16)), loop=loop, demos=DemoConfig(count=0)),
        total_env_steps=400,
    )
    cfg = with_changes(cfg, bundle=False)
    folder = RunFolder.create(tmp_path, task=cfg.task, agent="a", seed=0, name="run")
    folder.write_config(cfg)
    run, summaries = Run(cfg, folder, companions=[LearnerCompanion()]), []
    learner = threading.Thread(target=lambda: summaries.append(run.train()))
    learner.start()
    try:
        wait_until((folder.path / ACTOR).is_dir, seconds=120)
        actor = load_bundle(folder.path / ACTOR)
        world = build_world(cfg.task, actor.contract, seed=0, episodes=20)
        starts: list[int] = []
        begin = world.start
        world.start = lambda episode: (starts.append(episode), begin(episode))[0]
        link = LearningConfig(
            learner=str(tmp_path / "sock"), spool=tmp_path / "spool", noise_seed=0, grace=2.0
        )
        person = SimulatedPerson(world)
        rig = dataclasses.replace(sim_rig(world, actor.contract, person), sinks=(person.see,))
        options = DeployConfig(episodes=7, learning=link)
        deployment = Deployment(options, actor, rig, Talk(lambda line: None, lambda asked: ""))
        deployment.run()
    finally:
        learner.join(timeout=120)
    assert summaries[0] is not None
    assert starts == [0]
    done = deployment.link
    assert done is not None and done.policy is not None and done.policy.version >= 4
    assert {name.split("/")[1] for name in actor.parameters} >= {"forward", "backward"}
    state = last_state(run)
    rows = 0
    for name in ("forward", "backward"):
        data = state.data[name]["online"].data
        valid, turn = np.asarray(data.valid), np.asarray(data.obs[TURN])[..., 0]
        assert valid.any() and (turn[valid] == (1.0 if name == "forward" else -1.0)).all()
        rows += valid.sum()
        assert int(state.agent[name].step) > 0
    assert rows >= 400


@pytest.fixture(scope="module")
def bundle(whole: Run) -> Bundle:
    """What actors start with."""
    return load_bundle(whole.folder.path / ACTOR)


def learned_policy(bundle: Bundle, **options: Any) -> LearnedPolicy:
    assert bundle.explore is not None
    sizes = {"horizon": bundle.manifest.horizon, "action_dim": bundle.contract.action.dim}
    return LearnedPolicy(
        bundle.explore, bundle.parameters, bundle.contract.inputs, **sizes, **options
    )


def observation(bundle: Bundle, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    fields = bundle.contract.inputs.fields
    return {f.name: rng.normal(size=f.shape).astype(f.dtype) for f in fields}


def test_an_actor_explores_as_the_learner_would(whole: Run, bundle: Bundle) -> None:
    trainer = whole.trainer.exact()
    params = trainer.policy_params(last_state(whole))
    policy = learned_policy(bundle, seed=3)
    named = parameters_by_name(params)
    arrays = {name: named[name] for name in bundle.parameters}
    assert policy.take(Parameters(7, arrays)) is None
    assert policy.version == 7
    noise = np.random.default_rng(3).standard_normal((1, bundle.contract.action.dim), np.float32)
    obs = observation(bundle)
    batch = {name: x[None] for name, x in obs.items()}
    want = jax.jit(trainer.explore)(params, batch, noise[None]).action[0]
    np.testing.assert_allclose(policy.act(obs), want, atol=1e-5)


def test_parameters_that_are_not_the_policys_are_refused(bundle: Bundle) -> None:
    policy = learned_policy(bundle)
    name, own = next(iter(bundle.parameters.items()))
    for arrays, line in (
        ({"other": own}, "allowed: none such"),
        ({name: own[..., :-1]}, f"'{name}' is float32"),
        ({name: np.full_like(own, np.nan)}, f"'{name}' is not finite"),
    ):
        assert line in (policy.take(Parameters(1, arrays)) or "")
    assert (policy.version, policy.refused) == (-1, 3)
    assert policy.act(observation(bundle)).shape == (1, bundle.contract.action.dim)


def test_a_version_that_moves_the_actions_too_far_is_refused(bundle: Bundle) -> None:
    policy = learned_policy(bundle, jump=0.05)
    far = {name: x + np.float32(0.5) for name, x in bundle.parameters.items()}
    near = {name: x + np.float32(1e-4) for name, x in bundle.parameters.items()}
    for seed in range(4):
        policy.act(observation(bundle, seed))
    before = policy.act(observation(bundle))
    assert "from the last version's, allowed: 0.05" in (policy.take(Parameters(1, far)) or "")
    assert policy.take(Parameters(2, near)) is None
    assert policy.version == 2
    assert before.shape == (1, bundle.contract.action.dim)


def test_what_no_arm_can_give_is_refused(tmp_path: Path) -> None:
    listening = ActorsConfig(address=str(tmp_path / "sock"))
    cfg = tiny_config(tmp_path, actors=listening)
    loop = dataclasses.replace(cfg.method.loop, normalize_steps=10)
    method = dataclasses.replace(cfg.method, loop=loop)
    with pytest.raises(InputError, match=r"--listen with loop.normalize_steps 10, allowed: 0"):
        dataclasses.replace(cfg, method=method).build(cfg.build_observer())


def test_an_actor_that_does_not_say_whose_turn_it_is_is_refused(tmp_path: Path) -> None:
    actors = ActorsConfig(address=str(tmp_path / "sock"), agentlace=6678)
    cfg = tiny_config(tmp_path, task="franka/bin_relocation", method=PairConfig(), actors=actors)
    with pytest.raises(InputError, match="--listen-agentlace with a task by turns, .* allowed: --"):
        cfg.build(cfg.build_observer())
