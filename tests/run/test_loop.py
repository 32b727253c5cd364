"""A whole run on disk: it stops and goes on without a trace, and nothing of it is traced twice."""

import dataclasses
import json
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from as_users import user_env
from two_joints import registered

from mjx_serl import commands
from mjx_serl.agents.sac import SACConfig
from mjx_serl.config import EvalConfig, RunConfig, TrainConfig
from mjx_serl.envs.physics.native import CallbackPhysics
from mjx_serl.envs.vector import vectorize
from mjx_serl.run.checkpoint import CheckpointStore
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.hooks import EpochRecord, JsonlHook
from mjx_serl.run.loop import Run
from mjx_serl.run.programs import Programs
from mjx_serl.run.summary import Summary
from mjx_serl.training.demonstrations import DemoConfig
from mjx_serl.training.off_policy import LoopConfig, OffPolicy, OffPolicyConfig
from mjx_serl.training.state import TrainState, tree_bytes

ROOT = Path(__file__).resolve().parents[2]
HALF = 3  # epochs before and after the checkpoint


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo notes a NaN in MUJOCO_LOG.TXT of the working folder."""
    monkeypatch.chdir(tmp_path)


def tiny(physics: str, root: Path, **changes: Any) -> TrainConfig:
    """Six epochs of two steps, with a check in the middle and every epoch saved."""
    fields = {
        "physics": physics,
        "num_envs": 4,
        "total_env_steps": 2 * HALF * 2 * 4,
        "method": OffPolicyConfig(
            agent=SACConfig(hidden=(16, 16)),
            loop=LoopConfig(
                batch_size=16, updates_per_step=2, steps_per_epoch=2, warmup_steps=8, buffer_size=52
            ),
            demos=DemoConfig(count=2 if physics == "native" else 0),
        ),
        "eval": EvalConfig(every_epochs=2, check_episodes=2, episodes=2),
        "run": RunConfig(
            folder=root,
            checkpoint_seconds=0.0,
            keep_checkpoints=2 * HALF,
            tensorboard=False,
            bundle=False,
        ),
    }
    return TrainConfig(**(fields | changes))


def start(cfg: TrainConfig, name: str, *hooks: Any) -> Run:
    """A new run in `name` that writes metrics.jsonl."""
    folder = RunFolder.create(cfg.run.folder, task=cfg.task, agent="a", seed=0, name=name)
    folder.write_config(cfg)
    return Run(cfg, folder, [JsonlHook(folder), *hooks])


def restored(run: Run) -> tuple[TrainState, int, dict]:
    return run.store.restore(run.trainer.state_shapes())


def assert_same(one: TrainState, other: TrainState) -> None:
    """Every leaf, bit for bit."""
    named, others = jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other)
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for (path, x), y in zip(named, others, strict=True):
        where = jax.tree_util.keystr(path)
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert x.dtype == y.dtype and x.shape == y.shape, where
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), where


def rows_of(folder: RunFolder) -> list[dict]:
    """Every row of metrics.jsonl without its times."""
    rows = folder.read_metrics()
    return [{k: v for k, v in row.items() if k != "elapsed_s"} for row in rows]


@dataclasses.dataclass
class Straight:
    """A run from start to end, and the second half of it run again from its checkpoint."""

    run: Run
    summary: Summary | None
    traces: int
    resumed: Run
    resumed_summary: Summary | None
    resumed_traces: int
    programs: list[Programs]


def count_traces(patch: pytest.MonkeyPatch) -> list[int]:
    """Let every trace of an epoch add to the list returned."""
    traces: list[int] = []
    epoch = OffPolicy.epoch

    def counted(self: OffPolicy, state: TrainState) -> Any:
        traces.append(1)
        return epoch(self, state)

    patch.setattr(OffPolicy, "epoch", counted)
    return traces


def keep_programs(patch: pytest.MonkeyPatch) -> list[Programs]:
    kept: list[Programs] = []
    prepare = Run._prepare

    def keeping(self: Run, *args: Any, **more: Any) -> tuple[TrainState, Programs]:
        state, programs = prepare(self, *args, **more)
        kept.append(programs)
        return state, programs

    patch.setattr(Run, "_prepare", keeping)
    return kept


def run_twice(physics: str, root: Path, **changes: Any) -> Straight:
    """2k epochs at once; k of them copied to another folder and taken on to 2k."""
    cfg = tiny(physics, root, **changes)
    with pytest.MonkeyPatch.context() as patch:
        traces, programs = count_traces(patch), keep_programs(patch)
        run = start(cfg, "whole")
        summary = run.train()
        first = len(traces)
        half = root / "half"
        shutil.copytree(run.folder.path, half)
        for step in range(HALF + 1, 2 * HALF + 1):
            shutil.rmtree(half / "checkpoints" / f"{step:010d}")
        (half / "summary.json").unlink()
        folder = RunFolder.open(half)
        resumed = Run(folder.read_config(TrainConfig), folder, [JsonlHook(folder)])
        resumed_summary = resumed.train(resume=True)
        second = len(traces) - first
    # Tracing MJX takes seconds; every restore asks for the shapes.
    shapes = run.trainer.state_shapes()
    run.state_shapes = resumed.state_shapes = lambda: shapes
    return Straight(run, summary, first, resumed, resumed_summary, second, programs)


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Straight:
    """Twice with C MuJoCo."""
    return run_twice("native", tmp_path_factory.mktemp("native"))


@pytest.fixture(scope="module", params=["native", pytest.param("mjx", marks=pytest.mark.slow)])
def straight(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Straight:
    """Twice with each physics; MJX on the arm that it compiles soonest."""
    if request.param == "native":
        return request.getfixturevalue("native")
    with registered() as task:
        return run_twice(request.param, tmp_path_factory.mktemp(request.param), task=task)


# -- exact resume ------------------------------------------------------------------------------


def test_k_and_k_epochs_through_the_disk_equal_2k(straight: Straight):
    one, step, meta = restored(straight.run)
    other, same_step, same_meta = restored(straight.resumed)
    assert step == same_step == int(one.epoch) == 2 * HALF
    assert_same(one, other)
    timed = {"elapsed_s", "compile_s"}
    kept, same = (
        {k: v for k, v in m["progress"].items() if k not in timed} for m in (meta, same_meta)
    )
    assert kept == same


def test_the_second_half_is_not_the_first(straight: Straight, tmp_path: Path):
    """The comparison above can fail: an epoch moves the agent, the worlds and the ring."""
    state, _, _ = restored(straight.run)
    step = f"{HALF:010d}"
    shutil.copytree(straight.run.folder.checkpoints / step, tmp_path / step)
    old, _, _ = CheckpointStore(tmp_path).restore(straight.run.trainer.state_shapes())
    for part in ("agent", "worlds", "buffer", "key"):
        with pytest.raises(AssertionError):
            assert_same(getattr(old, part), getattr(state, part))


def test_metrics_and_summary_are_those_of_the_whole_run(straight: Straight):
    rows = rows_of(straight.run.folder)
    assert rows == rows_of(straight.resumed.folder)
    epochs = [row["epoch"] for row in rows if row["kind"] == "epoch"]
    assert epochs == list(range(1, 2 * HALF + 1))
    assert [row["epoch"] for row in rows if row["kind"] == "eval"] == [2, 4, 6]
    assert [row["kind"] for row in rows].index("final") == len(rows) - 1, "once, and last"
    assert rows[-1]["success_rate"] == straight.summary.success_rate
    figures = ("success_rate", "success_ci95", "episodes", "env_steps", "updates", "device")
    for name in figures:
        assert getattr(straight.summary, name) == getattr(straight.resumed_summary, name)
    assert straight.resumed_summary.env_steps == 2 * HALF * 2 * 4
    assert straight.resumed_summary.wall_seconds > 0
    assert straight.resumed.folder.read_summary() == straight.resumed_summary


def test_memory_is_said_as_it_is(native: Straight):
    run = native.run
    info = run._info(run.trainer.state_shapes())
    state, _, _ = restored(run)
    assert info.state_bytes == tree_bytes(state)
    assert info.buffer_bytes == tree_bytes(state.data)


# -- one trace, no transfer, no callback -------------------------------------------------------


def test_an_epoch_is_traced_once_per_process(straight: Straight):
    assert straight.traces == 1
    assert straight.resumed_traces == 1


def custom_calls(program: Any) -> set[str]:
    return set(re.findall(r'custom_call_target="([^"]+)"', program.as_text()))


def test_no_epoch_calls_back_into_python(straight: Straight):
    programs = straight.programs[0]
    compiled: tuple[Any, Any] = programs.epoch, programs.check
    for program in compiled:
        calls = custom_calls(program)
        assert not [name for name in calls if "callback" in name]
        assert not re.search(r"\b(infeed|outfeed|send|recv)\(", program.as_text())
        physics = {name for name in calls if name.startswith("mjx_serl")}
        native = straight.run.env.physics.name == "native"
        assert physics == ({"mjx_serl_step", "mjx_serl_reset"} if native else set())


def test_an_epoch_moves_nothing_between_host_and_device(straight: Straight):
    state, _, _ = restored(straight.run)
    epoch = straight.programs[0].epoch
    on_host = jax.tree.map(lambda x: x, state).replace(epoch=np.asarray(state.epoch))
    with jax.transfer_guard("disallow"):
        after, metrics = epoch(state)
        jax.block_until_ready((after, metrics))
        with pytest.raises(Exception, match=r"[Dd]isallowed host-to-device transfer"):
            jax.block_until_ready(jnp.sin(on_host.epoch))


def test_an_epoch_writes_into_the_ring_it_was_given(straight: Straight):
    # What was just restored may lie in memory that XLA copies once.
    state, _ = straight.programs[0].epoch(restored(straight.run)[0])
    before = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state.data["online"].data)]
    after, _ = straight.programs[0].epoch(state)
    assert [x.unsafe_buffer_pointer() for x in jax.tree.leaves(after.data["online"].data)] == before
    assert all(x.is_deleted() for x in jax.tree.leaves(state.data["online"].data))


def test_a_callback_would_be_noticed(native: Straight):
    env = native.run.env
    slow = dataclasses.replace(env, physics=CallbackPhysics(env.scene.model))
    reset = jax.jit(vectorize(slow, num_envs=2).reset).lower(jax.random.key(0)).compile()
    assert [name for name in custom_calls(reset) if "callback" in name]


def test_nothing_is_compiled_between_epochs(tmp_path: Path):
    """After the first epoch and check, every program that the loop runs exists."""
    compiled: list[str] = []
    counts: list[int] = []

    def listen(event: str, duration: float, **more: Any) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    class Count(Quiet):
        def on_epoch(self, record: EpochRecord) -> None:
            counts.append(len(compiled))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        start(tiny("native", tmp_path), "counted", Count()).train()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert counts[0] > 0
    assert counts[3:] == [counts[3]] * (2 * HALF - 3)


# -- stopping ----------------------------------------------------------------------------------


class Quiet:
    """A hook that does nothing."""

    def on_start(self, info: Any) -> None: ...

    def on_epoch(self, record: EpochRecord) -> None: ...

    def on_eval(self, record: Any) -> None: ...

    def on_end(self, summary: Any) -> None: ...


class Interrupt(Quiet):
    """Sends this process a signal after an epoch."""

    def __init__(self, number: int, epoch: int) -> None:
        self.number, self.epoch = number, epoch

    def on_epoch(self, record: EpochRecord) -> None:
        if record.epoch == self.epoch:
            os.kill(os.getpid(), self.number)
            time.sleep(0.3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_how_to_go_on(
    native: Straight,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
):
    cfg = tiny("native", tmp_path)
    cfg = dataclasses.replace(cfg, run=dataclasses.replace(cfg.run, name="stopped"))
    stop = Interrupt(number, HALF)
    monkeypatch.setattr(commands, "default_hooks", lambda cfg, folder: [JsonlHook(folder), stop])
    assert commands.guarded(lambda: commands.train(cfg, None)) == 0
    said = capsys.readouterr().out
    command = f"python train.py --resume {tmp_path / 'stopped'}"
    assert said == f"Stopped and saved. Go on with:\n  {command}\n"
    folder = RunFolder.open(tmp_path / "stopped")
    assert HALF <= CheckpointStore(folder.checkpoints).steps()[-1] < 2 * HALF
    assert folder.read_summary() is None
    argv = command.split()[2:]
    assert commands.guarded(lambda: commands.train(*commands.parse_train(argv))) == 0
    assert "Stopped" not in capsys.readouterr().out
    assert rows_of(folder) == rows_of(native.run.folder)
    again = Run(cfg, folder)
    assert_same(restored(again)[0], restored(native.run)[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_final_evaluation_waits_for_it_and_says_how_to_go_on(
    native: Straight,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
):
    cfg, folder, evaluate = native.run.cfg, native.run.folder, Run._evaluate

    def interrupted(self: Run, *args: Any) -> Any:
        result = evaluate(self, *args)
        os.kill(os.getpid(), number)
        time.sleep(0.3)
        return result

    monkeypatch.setattr(Run, "_evaluate", interrupted)
    monkeypatch.setattr(commands, "default_hooks", lambda cfg, folder: [JsonlHook(folder)])
    before = rows_of(folder)
    (folder.path / "summary.json").unlink()
    assert commands.guarded(lambda: commands.train(cfg, folder.path)) == 0
    said = capsys.readouterr()
    assert f"It goes on with: python train.py --resume {folder.path}\n" in said.err
    assert "Stopped" not in said.out, "nothing is left to do"
    assert folder.read_summary() is not None and rows_of(folder) == before


def test_a_finished_run_is_resumed_into_its_summary(native: Straight):
    rows = rows_of(native.run.folder)
    folder = native.run.folder
    again = Run(native.run.cfg, folder, [JsonlHook(folder)]).train(resume=True)
    assert again.success_rate == native.summary.success_rate
    assert rows_of(native.run.folder) == rows


def test_a_finished_run_is_evaluated_again(native: Straight, capsys: pytest.CaptureFixture[str]):
    main = runpy.run_path(str(ROOT / "evaluate.py"))["main"]
    assert main(native.run.folder.path, episodes=3) == 0
    assert re.match(r"success \d/3 = .* \(95 % interval", capsys.readouterr().out)


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = start(tiny("native", tmp_path, total_env_steps=8), "early")
    summary = run.train(resume=True)
    assert summary.env_steps == 8
    assert "stopped before its first checkpoint; it starts again" in capsys.readouterr().err


# -- a world that leaves the numbers -----------------------------------------------------------


def poison(state: TrainState, world: int, nq: int) -> TrainState:
    """Put a NaN into a joint velocity of one world's float64 row."""
    rows = np.array(state.worlds.envs.carry).view(np.float64)
    rows[world, 1 + nq] = np.nan
    worlds = state.worlds.envs.replace(carry=jnp.asarray(rows.view(np.uint32)))
    return state.replace(worlds=state.worlds.replace(envs=worlds))


def poisoned_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    run = start(tiny("native", root), "sick")
    prepare = run._prepare

    def sick(*args: Any, **more: Any) -> tuple[TrainState, Programs]:
        state, programs = prepare(*args, **more)
        return poison(state, 2, run.env.scene.model.nq), programs

    monkeypatch.setattr(run, "_prepare", sick)
    return run


def test_a_nan_world_is_counted_dumped_and_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = poisoned_run(tmp_path, monkeypatch)
    summary = run.train()
    assert summary.env_steps == 48
    rows = [row for row in rows_of(run.folder) if row["kind"] == "epoch"]
    assert [row["env/nan_worlds"] for row in rows] == [1.0] + [0.0] * (2 * HALF - 1)
    state, _, _ = restored(run)
    for leaf in jax.tree.leaves((state.agent, state.data["online"], state.worlds.envs.obs)):
        assert np.isfinite(np.asarray(leaf, np.float64)).all()
    warm = 2  # rows of warm-up
    assert not state.data["online"].data.valid[warm, 2]
    assert int((~state.data["online"].data.valid[: warm + 4]).sum()) == 1
    with np.load(run.folder.path / "nan_world.npz", allow_pickle=False) as dump:
        assert int(dump["world"]) == 2
        assert dump["qpos"].shape == (run.env.scene.model.nq,)
        assert np.isfinite(dump["qpos"]).all() and np.abs(dump["action"]).max() <= 1.0


def test_a_dump_that_cannot_be_written_does_not_end_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    run = poisoned_run(tmp_path, monkeypatch)

    def full(*args: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert run.train() is not None
    err = capsys.readouterr().err
    assert "nan_world.npz was not written ([Errno 28] No space left on device)" in err


# -- kill -9 -----------------------------------------------------------------------------------

EPOCHS = 60
SMALL = [
    *("--num-envs", "4", "--total-env-steps", str(EPOCHS * 12), "--agent.hidden", "16", "16"),
    *("--loop.steps-per-epoch", "3", "--loop.updates-per-step", "2", "--loop.batch-size", "16"),
    *("--loop.warmup-steps", "24", "--loop.buffer-size", "400", "--demos.count", "2"),
    *("--eval.every-epochs", "7", "--eval.check-episodes", "2", "--eval.episodes", "2"),
    *("--run.checkpoint-seconds", "0", "--run.no-tensorboard", "--run.no-bundle"),
]


def train_py(*argv: str) -> subprocess.Popen:
    return start_process(str(ROOT / "train.py"), *argv)


def start_process(*argv: str) -> subprocess.Popen:
    pipe = subprocess.PIPE
    env = user_env() | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, *argv], stdout=pipe, stderr=pipe, text=True, env=env)


def wait_for(process: subprocess.Popen, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def finish(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    return out


def last_epoch(folder: RunFolder) -> int:
    return max((row["epoch"] for row in folder.read_metrics()), default=0)


@pytest.mark.slow
def test_kill_9_at_random_moments_loses_nothing(tmp_path: Path):
    """Five kills and one SIGTERM; then every figure and every bit is that of a quiet run."""
    rng = random.Random(4)
    root = ["--run.folder", str(tmp_path)]
    finish(train_py(*SMALL, *root, "--run.name", "quiet"))
    folder = RunFolder(tmp_path / "killed")
    targets = sorted(rng.sample(range(3, EPOCHS - 12), 4))
    process = train_py(*SMALL, *root, "--run.name", "killed")
    wait_for(process, lambda: (folder.path / "config.json").exists())
    for target in [0, *targets]:
        wait_for(process, lambda t=target: last_epoch(folder) >= t)
        time.sleep(rng.uniform(0.0, 0.15))
        assert process.poll() is None, "it ended before it was killed"
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        process = train_py("--resume", str(folder.path))
        time.sleep(rng.uniform(0.0, 1.0))
    wait_for(process, lambda: last_epoch(folder) > targets[-1] + 2)
    process.send_signal(signal.SIGTERM)
    assert f"--resume {folder.path}" in finish(process)
    finish(train_py("--resume", str(folder.path)))
    quiet = RunFolder(tmp_path / "quiet")
    assert rows_of(folder) == rows_of(quiet)
    assert last_epoch(quiet) == EPOCHS
    states = []
    for each in (folder, quiet):
        run = Run(each.read_config(TrainConfig), each)
        states.append(restored(run)[0])
        assert run.store.steps()[-1] == EPOCHS
    assert_same(*states)
    ends = [json.loads((f.path / "summary.json").read_text()) for f in (folder, quiet)]
    for name in ("success_rate", "env_steps", "updates", "episodes"):
        assert ends[0][name] == ends[1][name]


# -- learning ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_laptop_preset_learns_to_pick(tmp_path: Path):
    """A quarter of what it needs for 99 %: 0.86 to 0.89 on three seeds; untrained it solves 0."""
    script = Path(__file__).with_name("learn_to_pick.py")
    lines = finish(start_process(str(script), str(tmp_path))).splitlines()
    rates = json.loads(lines[-1])
    assert rates["before"] <= 0.05
    assert rates["after"] >= 0.5
