"""Each question's code path at the smallest sizes, the GPU's on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from two_joints import registered

from benchmarks import gpu, harness, learner, physics, pixels, rates, render, train
from benchmarks.peers import venvs
from benchmarks.peers.environments import InstallError
from benchmarks.process import ROOT
from benchmarks.results import Recorder
from benchmarks.workers import sac
from benchmarks.workers.profile import table
from mjx_serl import commands
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.hooks import EpochRecord, EvalRecord, JsonlHook
from mjx_serl.run.summary import Summary

TASK = "franka/pick_cube"


def values(recorder):
    return {r.name: r.value for r in recorder.results if r.value is not None}


@pytest.fixture
def trained_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the training benchmark find what a run of its options would leave, without training.

    What a real run leaves is read in test_commands.py; that it is started, in test_train.py.
    """

    def finish(command: list[str], timeout: float) -> str | None:
        assert command[:2] == [sys.executable, str(ROOT / "train.py")]
        cfg, _ = commands.parse_train(command[2:])
        said = {"task": cfg.task, "agent": cfg.agent_name, "seed": cfg.seed}
        folder = RunFolder.create(cfg.run.folder, **said, name=cfg.run.name)
        hook, episodes = JsonlHook(folder), cfg.eval.episodes
        for n in (1, 2):
            hook.on_epoch(EpochRecord(epoch=n, env_steps=20 * n, grad_steps=5 * n, elapsed_s=n))
        done = {"env_steps": 40, "episodes": episodes}
        hook.on_eval(EvalRecord(epoch=2, elapsed_s=3.0, successes=0, final=True, **done))
        rates = {"success_rate": 0.0, "success_ci95": (0.0, 0.7)}
        times = {"wall_seconds": 3.0, "compile_seconds": 1.0}
        hook.on_end(Summary(**said, **rates, **times, **done, updates=10, device="cpu"))
        return None

    monkeypatch.setattr(train, "_finish", finish)


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_physics_measures_ours_beside_the_raw_engines():
    recorder = Recorder("physics")
    with registered() as task:
        cfg = physics.smoke(physics.PhysicsConfig(task=task))
        physics.against_raw(cfg, recorder)
    found = values(recorder)
    assert set(found) == {"ours", "ours, physics alone", "mujoco.batch.Batch", "mujoco.rollout"}
    assert all(value > 0 for value in found.values())
    ratios = {r.name: r.ratio for r in recorder.results}
    assert ratios["ours"].to == "mujoco.batch.Batch"
    assert ratios["ours"].goal == 0.75


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_a_task_is_measured_beside_the_engine_once():
    recorder = Recorder("rates")
    with registered() as task:
        cfg = rates.RatesConfig(only=(task,), num_envs=4, repeats=1, seconds=0.01)
        rates.run(cfg, recorder)
        rates.run(cfg, recorder)
    assert [r.name for r in recorder.results] == [task]
    assert recorder.results[0].ratio.to == "mujoco.batch.Batch"
    assert recorder.results[0].ratio.goal == 0.85


@pytest.mark.slow
@pytest.mark.usefixtures("in_process", "trained_elsewhere")
def test_the_gpu_path_runs_on_a_cpu_at_tiny_sizes():
    recorder = Recorder("physics_gpu")
    with registered() as task:
        gpu.run_gpu(gpu.GpuConfig(), recorder, task=task, smoke=True)
    found = values(recorder)
    for name in ("warp env 2", "mjx env 2", "warp physics alone 2", "pure mujoco_warp 2"):
        assert name in found, [r.params for r in recorder.results if r.name == name]
    assert found["fast seed 0: wall time"] > 0
    ratio = next(r.ratio for r in recorder.results if r.name == "warp env 2")
    assert (ratio.to, ratio.goal) == ("pure mujoco_warp", 0.85)


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_drawing_is_measured_over_splats_worlds_threads_and_backends():
    recorder = Recorder("render")
    cfg = render.smoke(render.RenderConfig())
    render.run(cfg, recorder)
    found = values(recorder)
    for name in ("cpu cached, 100 splats, 16 px", "cpu full, 2 worlds", "xla, 100 splats"):
        assert found[name] > 0, [r.params for r in recorder.results if r.name == name]
    ratios = {r.name: r.ratio for r in recorder.results}
    if "cpu full, two cores" in ratios:
        assert ratios["cpu full, two cores"].goal == 1.6
    assert ratios["cpu, 100 splats, over xla, 100 splats"].value > 0


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_worlds_that_look_are_measured_beside_those_that_do_not():
    recorder = Recorder("pixels")
    pixels.run(pixels.smoke(pixels.PixelsConfig()), recorder)
    found = values(recorder)
    assert set(found) == {"pixels 2", "state 2", "pixels over state"}, found
    assert 0 < found["pixels over state"] < 2


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_drawing_on_a_gpu_lists_what_cannot_run_and_measures_the_rest():
    recorder = Recorder("render_gpu")
    render.run_gpu(render.smoke(render.RenderConfig()).gpu, recorder)
    found = {r.name: r for r in recorder.results}
    assert values(recorder)["xla 2 worlds, 16 px, cached"] > 0
    for name in ("splax", "gsplat", "mjwarp"):
        row = found[f"{name} 2 worlds, 16 px, full"]
        assert row.value or "reason" in row.params


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_the_learner_is_measured_scanned_and_one_call_at_a_time(monkeypatch: pytest.MonkeyPatch):
    for size, small in {"BATCH": 8, "STORED": 64}.items():
        monkeypatch.setattr(sac, size, small)
    recorder = Recorder("learner")
    learner.run(learner.smoke(), recorder)
    found = values(recorder)
    assert found["tanh + LayerNorm: ours, scanned"] > 0
    assert found["tanh + LayerNorm: ours, one call each"] > 0


def test_a_gpu_run_out_of_time_says_what_it_left_out():
    recorder = Recorder("physics_gpu")
    cfg = gpu.GpuConfig(num_envs=(8,), budget=1.0, train_seconds=5.0, preset="")
    gpu.run_gpu(cfg, recorder, task=TASK, smoke=False)
    assert "budget" in recorder.results[0].params["reason"]


def test_a_peer_that_does_not_install_says_why(monkeypatch, tmp_path):
    monkeypatch.setattr(venvs, "FOLDER", tmp_path)

    def fails(folder: Path, *pins: object, **more: object) -> Path:
        raise InstallError(f"no {folder.name} for you")

    monkeypatch.setattr(venvs, "environment", fails)
    with pytest.raises(venvs.PeerError, match="gym_hil does not install: no gym_hil for you"):
        venvs.peer_python("gym_hil")
    monkeypatch.setattr(venvs, "environment", lambda *pins, **more: Path(sys.executable))
    monkeypatch.setitem(venvs.PEERS, "gym_hil", venvs.Peer("no_such_module", ()))
    with pytest.raises(venvs.PeerError, match="gym_hil does not import: .*no_such_module"):
        venvs.peer_python("gym_hil")


def test_every_peer_is_pinned():
    for peer in venvs.PEERS.values():
        assert all("==" in pin or "<" in pin for pin in venvs._pins(peer))


def test_every_question_of_the_harness_can_be_asked_alone():
    asked = harness.questions(harness.HarnessConfig(smoke=True))
    assert set(asked) == set(harness.HarnessConfig().only)


# As `python -m benchmarks.NAME --help`, each of them, in one process: their imports are the cost.
HELP = """
import contextlib, io, json, runpy, sys
said = {}
for name in sys.argv[1:]:
    sys.argv, out, status = [f"{name}.py", "--help"], io.StringIO(), None
    with contextlib.redirect_stdout(out):
        try:
            runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            status = stop.code or 0
    said[name] = status, out.getvalue()
print(json.dumps(said))
"""
SCRIPTS = ("harness", "physics", "learner", "render", "train", "ppo", "seeds_together")


@pytest.mark.slow
def test_help_lists_the_options():
    command = [sys.executable, "-c", HELP, *SCRIPTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert tuple(said) == SCRIPTS
    for name, (status, out) in said.items():
        assert status == 0 and "--help" in out and f"{name}.py" in out, (name, out, done.stderr)


@pytest.mark.parametrize("path", sorted(ROOT.glob("benchmarks/workers/*.py")), ids=lambda p: p.stem)
def test_every_worker_serves_when_it_is_run(path: Path):
    """Here workers are called; as processes they are `python -m benchmarks.workers.NAME`."""
    text = path.read_text()
    if "def start(" in text:
        assert text.endswith('if __name__ == "__main__":\n    serve(start)\n')


def test_the_profile_ranks_operations_and_says_where_they_come_from():
    times = {"dot.1": (3e-3, 10), "fusion.2": (1e-3, 10)}
    text = table(times, {"dot.1": "jit(f)/a/b/dot_general"}, 10, {"activation": "tanh"})
    rows = text.splitlines()[3:]
    assert rows[0].split() == ["75.0%", "300.0", "1.00", "dot.1", "(a/b/dot_general)"]
    assert rows[1].startswith(" 25.0%")


@pytest.mark.parametrize(("params", "hangs"), [({}, 0), ({"hang": True}, 2)])
def test_starts_count_each_hang_once(monkeypatch, params, hangs):
    monkeypatch.setattr(physics, "ENV", "tests.benchmarks.echo_worker")
    monkeypatch.setattr(physics, "START_LIMIT", 1.5 if hangs else 30.0)
    monkeypatch.setattr(physics, "_env", lambda cfg, num, **changes: params)
    recorder = Recorder("physics")
    physics.starts(physics.PhysicsConfig(starts=2), recorder)
    assert recorder.results[0].value == hangs
    assert len(recorder.results[0].params["problems"]) == hangs
