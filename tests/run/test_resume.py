"""A whole run on disk: it goes on without a trace, and nothing of it is traced twice."""

import dataclasses
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_joints import registered
from whole_runs import (
    HALF,
    Whole,
    assert_same,
    copy_of,
    quiet_run,
    restored,
    reusing,
    rows_of,
    second_half,
    start,
    tiny,
)

from mjx_serl.cli import evaluate
from mjx_serl.commands import open_run
from mjx_serl.config import TrainConfig
from mjx_serl.envs.physics.native import CallbackPhysics
from mjx_serl.envs.vector import vectorize
from mjx_serl.run.checkpoint import CheckpointStore
from mjx_serl.run.curve import draw_curve
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.hooks import JsonlHook
from mjx_serl.run.initial import learned_by, load_initial
from mjx_serl.run.loop import Run
from mjx_serl.training.off_policy import OffPolicy
from mjx_serl.training.state import tree_bytes


@dataclasses.dataclass
class Straight:
    """A run from start to end, and the second half of it run again from its checkpoint."""

    whole: Whole
    resumed: Whole


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Straight:
    """Twice with C MuJoCo; the second builds everything anew, as another process would."""
    root = tmp_path_factory.mktemp("native")
    whole = quiet_run(tiny("native", root))
    return Straight(whole, second_half(whole, root / "half"))


@pytest.fixture(scope="module")
def mjx(tmp_path_factory: pytest.TempPathFactory) -> Straight:
    """Twice with MJX, on the arm that it compiles soonest; episodes end within the run.

    The second has the same worlds and evaluates with the same program (an evaluation knows
    nothing of resuming), and makes its own epoch.
    """
    root = tmp_path_factory.mktemp("mjx")
    with registered(episode_steps=8) as task, pytest.MonkeyPatch.context() as patch:
        whole = quiet_run(tiny("mjx", root, task=task))
        patch.setattr(TrainConfig, "build_observer", lambda cfg: whole.run.observer)
        patch.setattr(Run, "_compile_eval", lambda *args: whole.programs.check)
        return Straight(whole, second_half(whole, root / "half"))


@pytest.fixture(params=["native", pytest.param("mjx", marks=pytest.mark.slow)])
def straight(request: pytest.FixtureRequest) -> Iterator[Straight]:
    """Each of the two; what is read of them later asks for the same shapes."""
    twice: Straight = request.getfixturevalue(request.param)
    with reusing(twice.whole):
        yield twice


# -- exact resume ------------------------------------------------------------------------------


def test_k_and_k_epochs_through_the_disk_equal_2k(straight: Straight):
    one, step, meta = restored(straight.whole.run)
    other, same_step, same_meta = restored(straight.resumed.run)
    assert step == same_step == int(one.epoch) == 2 * HALF
    assert_same(one, other)
    timed = {"elapsed_s", "compile_s"}
    kept, same = (
        {k: v for k, v in m["progress"].items() if k not in timed} for m in (meta, same_meta)
    )
    assert kept == same


def test_the_second_half_is_not_the_first(straight: Straight, tmp_path: Path):
    """The comparison above can fail: an epoch moves the agent, the worlds and the ring."""
    state, _, _ = restored(straight.whole.run)
    step = f"{HALF:010d}"
    shutil.copytree(straight.whole.run.folder.checkpoints / step, tmp_path / step)
    old, _, _ = CheckpointStore(tmp_path).restore(straight.whole.shapes)
    for part in ("agent", "worlds", "data", "key"):
        with pytest.raises(AssertionError):
            assert_same(getattr(old, part), getattr(state, part))


def test_metrics_and_summary_are_those_of_the_whole_run(straight: Straight):
    whole, resumed = straight.whole, straight.resumed
    rows = rows_of(whole.run.folder)
    assert rows == rows_of(resumed.run.folder)
    epochs = [row["epoch"] for row in rows if row["kind"] == "epoch"]
    assert epochs == list(range(1, 2 * HALF + 1))
    assert [row["epoch"] for row in rows if row["kind"] == "eval"] == [2, 4, 6]
    assert [row["kind"] for row in rows].index("final") == len(rows) - 1, "once, and last"
    assert rows[-1]["success_rate"] == whole.summary.success_rate
    figures = ("success_rate", "success_ci95", "episodes", "env_steps", "updates", "device")
    for name in figures:
        assert getattr(whole.summary, name) == getattr(resumed.summary, name)
    assert resumed.summary.env_steps == 2 * HALF * 2 * 4
    assert resumed.summary.wall_seconds > 0
    assert resumed.run.folder.read_summary() == resumed.summary


def test_memory_is_said_as_it_is(native: Straight):
    run = native.whole.run
    info = run._info(run.trainer.state_shapes())
    state, _, _ = restored(run)
    assert info.state_bytes == tree_bytes(state)
    assert info.buffer_bytes == tree_bytes(state.data)


# -- one trace, no transfer, no callback -------------------------------------------------------


def test_an_epoch_is_traced_once_per_process(straight: Straight):
    assert straight.whole.epoch_traces == 1
    assert straight.resumed.epoch_traces == 1


def test_the_step_of_a_world_is_traced_once_for_all_programs(straight: Straight):
    # Worlds that can pause are stepped otherwise in an evaluation; MJX, dear to trace, has none.
    assert straight.whole.step_traces == (2 if straight.whole.run.env.can_pause else 1)


def custom_calls(program: Any) -> set[str]:
    return set(re.findall(r'custom_call_target="([^"]+)"', program.as_text()))


def test_no_epoch_calls_back_into_python(straight: Straight):
    programs = straight.whole.programs
    compiled: tuple[Any, Any] = programs.epoch, programs.check
    for program in compiled:
        calls = custom_calls(program)
        assert not [name for name in calls if "callback" in name]
        assert not re.search(r"\b(infeed|outfeed|send|recv)\(", program.as_text())
        physics = {name for name in calls if name.startswith("mjx_serl")}
        native = straight.whole.run.env.physics.name == "native"
        assert physics == ({"mjx_serl_step", "mjx_serl_reset"} if native else set())


def test_an_epoch_moves_nothing_between_host_and_device(straight: Straight):
    state, _, _ = restored(straight.whole.run)
    epoch = straight.whole.programs.epoch
    on_host = jax.tree.map(lambda x: x, state).replace(epoch=np.asarray(state.epoch))
    with jax.transfer_guard("disallow"):
        after, metrics = epoch(state)
        jax.block_until_ready((after, metrics))
        with pytest.raises(Exception, match=r"[Dd]isallowed host-to-device transfer"):
            jax.block_until_ready(jnp.sin(on_host.epoch))


def test_an_epoch_writes_into_the_ring_it_was_given(straight: Straight):
    epoch = straight.whole.programs.epoch
    # What was just restored may lie in memory that XLA copies once.
    state, _ = epoch(restored(straight.whole.run)[0])
    before = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state.data["online"].data)]
    after, _ = epoch(state)
    assert [x.unsafe_buffer_pointer() for x in jax.tree.leaves(after.data["online"].data)] == before
    assert all(x.is_deleted() for x in jax.tree.leaves(state.data["online"].data))


def test_a_callback_would_be_noticed(native: Straight):
    env = native.whole.run.env
    slow = dataclasses.replace(env, physics=CallbackPhysics(env.scene.model))
    reset = jax.jit(vectorize(slow, num_envs=2).reset).lower(jax.random.key(0)).compile()
    assert [name for name in custom_calls(reset) if "callback" in name]


def test_nothing_is_compiled_between_epochs(straight: Straight):
    """After the first epoch and check, every program that the loop runs exists."""
    counts = straight.whole.compiled
    assert counts[0] > 0
    assert counts[3:] == [counts[3]] * (2 * HALF - 3)


# -- after the end -----------------------------------------------------------------------------


def test_a_finished_run_is_resumed_into_its_summary(native: Straight):
    run = native.whole.run
    rows, folder = rows_of(run.folder), run.folder
    with reusing(native.whole):
        again = Run(run.cfg, folder, [JsonlHook(folder)]).train(resume=True)
    assert again.success_rate == native.whole.summary.success_rate
    assert rows_of(folder) == rows


def test_a_finished_run_goes_on_with_what_may_change(native: Straight, tmp_path: Path, capsys):
    """Its config says so from then on, and its log from which epoch."""
    folder = RunFolder(shutil.copytree(native.whole.run.folder.path, tmp_path / "longer"))
    old = folder.read_config(TrainConfig)
    new = dataclasses.replace(
        old,
        total_env_steps=old.total_env_steps + 2 * 2 * 4,
        eval=dataclasses.replace(old.eval, stop_at=0.5, stop_checks=1),
    )
    hooks = [JsonlHook(folder)]
    with reusing(native.whole), open_run(new, folder.path, hooks=hooks, outputs=()) as run:
        summary = run.train(resume=True)
    assert summary.env_steps == new.total_env_steps
    assert folder.read_config(TrainConfig) == new
    rows = rows_of(folder)
    (note,) = [row for row in rows if row["kind"] == "options"]
    assert note["epoch"] == 2 * HALF
    assert note["changed"]["total_env_steps"] == [old.total_env_steps, new.total_env_steps]
    assert set(note["changed"]) == {"total_env_steps", "eval.stop_at", "eval.stop_checks"}
    assert [r["epoch"] for r in rows[rows.index(note) :] if r["kind"] == "epoch"] == [7, 8]
    assert rows[-1]["kind"] == "final"
    assert "goes on with --total-env-steps" in capsys.readouterr().err
    draw_curve(folder.read_metrics(), tmp_path / "curve.png")


def test_checks_that_were_good_by_another_rule_do_not_count(native: Straight, tmp_path: Path):
    folder = RunFolder(shutil.copytree(native.whole.run.folder.path, tmp_path / "other_rule"))
    old = folder.read_config(TrainConfig)
    for step, (change, good) in enumerate([({"stop_at": 0.5}, 0), ({"episodes": 5}, 2)], 10):
        new = dataclasses.replace(old, eval=dataclasses.replace(old.eval, **change))
        with reusing(native.whole), open_run(new, folder.path, hooks=[], outputs=()) as run:
            state, _, _ = run.store.restore(native.whole.shapes)
            run.store.save(step, state, {"progress": {"epoch": step, "good_checks": 2}})
            run.store.wait()
            run._restore(native.whole.shapes)
        assert run.progress.good_checks == good


def test_a_finished_run_is_evaluated_again(native: Straight, capsys: pytest.CaptureFixture[str]):
    assert evaluate.main(native.whole.run.folder.path, episodes=3) == 0
    assert re.match(r"success \d/3 = .* \(95 % interval", capsys.readouterr().out)


# -- beginning with another run's parameters ---------------------------------------------------


def test_a_run_begins_with_anothers_parameters_and_nothing_else(native: Straight, tmp_path: Path):
    whole = native.whole
    cfg = dataclasses.replace(whole.run.cfg, init=whole.run.folder.path)
    cfg = dataclasses.replace(cfg, run=dataclasses.replace(cfg.run, folder=tmp_path))
    run = start(cfg, "second")
    with reusing(whole), pytest.MonkeyPatch.context() as patch:
        assert run.train() is not None
        patch.setattr(OffPolicy, "init", lambda self, key: copy_of(whole.first))
        state = run.first_state()
    last, _, _ = whole.run.store.restore(whole.shapes)
    learned = learned_by(run.trainer)
    assert_same(learned(state), learned(last))
    assert int(state.agent.step) == int(state.epoch) == 0 < int(last.agent.step)
    for part in (lambda s: s.data, lambda s: s.worlds, lambda s: s.agent.actor.opt_state):
        assert_same(part(state), part(whole.first))
    assert run.folder.read_config(TrainConfig).init == whole.run.folder.path


def test_parameters_of_other_sizes_are_refused_in_one_line(native: Straight):
    run = native.whole.run
    agent = dataclasses.replace(run.cfg.method.agent, hidden=(24, 16))
    method = dataclasses.replace(run.cfg.method, agent=agent)
    trainer = method.build(run.observer, num_envs=run.cfg.num_envs)
    with pytest.raises(ValueError, match=r"^--init .* does not fit: .* and \d+ more; ") as refusal:
        load_initial(run.folder.path, trainer, trainer.state_shapes())
    assert "\n" not in str(refusal.value) and "24" in str(refusal.value)
