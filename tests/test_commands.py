"""What a command line makes of good and of bad input: one clear line, exit status 2, no folder."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from benchmarks.train import read_run
from mjx_serl import api, commands
from mjx_serl.cli import record
from mjx_serl.commands import (
    BAD_INPUT,
    INTERRUPTED,
    SHOW_TRACEBACK,
    guarded,
    parse_train,
    train,
)
from mjx_serl.config import RunConfig, TrainConfig
from mjx_serl.data.demos import DemoContract, load_demos, save_demos
from mjx_serl.envs.env import make_env
from mjx_serl.envs.observation import Observer
from mjx_serl.experiments import PRESETS
from mjx_serl.nets.velocity_vla import VLAVelocityConfig
from mjx_serl.platform import needs_mjx, parse_start, prepare_platform
from mjx_serl.run import loop
from mjx_serl.run.console import ConsoleHook
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.resume import allowed_changes
from mjx_serl.training import demonstrations
from mjx_serl.training.demonstrations import DemoConfig, RecordedDemos, demo_contract
from mjx_serl.training.off_policy import OffPolicyConfig
from mjx_serl.types import Transition
from scenes.contract.command_line import FAILED
from scenes.contract.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
TASK = "franka/pick_cube"

Refuse = Callable[..., str]


@pytest.fixture
def refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Run train.py's command line in `tmp_path`/runs; returns the one line it is refused with."""

    def run(*argv: str) -> str:
        line = ["--run.folder", str(tmp_path / "runs"), *argv]
        try:
            code = guarded(lambda: train(*parse_train(line)))
        except SystemExit as stop:
            code = stop.code
        assert code == BAD_INPUT
        text = capsys.readouterr().err
        assert "Traceback" not in text
        return text

    return run


def runs(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "runs").glob("*"))


def one_line(text: str) -> str:
    assert text.startswith("error: ") and text.count("\n") == 1
    return text.strip()


# -- names -------------------------------------------------------------------------------------


def test_an_unknown_task(refuse: Refuse, tmp_path: Path):
    text = one_line(refuse("--task", "franka/pick_cub", "--run.name", "mine"))
    assert "Unknown task 'franka/pick_cub'. Did you mean 'franka/pick_cube'?" in text
    assert "Allowed: " in text and "franka/pick_cube, franka/pick_cube_dense" in text
    assert runs(tmp_path) == []


def test_an_unknown_backend_even_where_nothing_is_drawn(refuse: Refuse):
    text = one_line(refuse("--pixels.backend", "cuda"))
    assert "Unknown render backend 'cuda'. Allowed: " in text


def test_more_episodes_than_memory_holds_worlds(refuse: Refuse):
    text = one_line(refuse("--eval.episodes", "1000000000"))
    assert "eval.episodes 1000000000, allowed: 1 to 100000" in text


def test_an_unknown_preset(refuse: Refuse):
    text = one_line(refuse("--preset", "laptob"))
    assert "Unknown preset 'laptob'. Did you mean 'laptop'? Allowed: bc, bc_hil, " in text


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        (("--loop.bach-size", "5"), "--loop.batch-size"),
        (("--num-env", "5"), "--num-envs"),
        (("--agent.gama", ".9"), "--agent.gamma"),
    ],
)
def test_an_unknown_option(refuse: Refuse, option: tuple[str, str], hint: str):
    text = refuse(*option)
    assert option[0] in text and hint in text


@pytest.mark.parametrize("option", [("--demos.count", "3"), ("--demos.file=x.npz",)])
def test_demonstrations_where_none_are_learned_from(refuse: Refuse, option: tuple[str, ...]):
    text = one_line(refuse("--preset", "ppo", *option))
    said = f"{option[0].split('=')[0]} with --method on_policy, which learns from its own rollouts"
    assert said in text and "allowed with demonstrations: off_policy, offline" in text


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        (("--physics", "bullet"), "native"),
        (("--num-envs", "many"), "many"),
        (("--agent.adam-ticks", "none"), "shared_apart"),
    ],
)
def test_a_value_of_the_wrong_kind(refuse: Refuse, option: tuple[str, str], hint: str):
    text = refuse(*option)
    assert option[0] in text and hint in text


@pytest.mark.parametrize("option", ["--preset", "--resume", "--physics", "--seed"])
def test_an_option_without_its_value(refuse: Refuse, option: str):
    """The parser says it, as it does of every other option."""
    assert f"Missing value for argument '{option}'" in refuse(option)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        (("--agent.gamma", "1.5"), "gamma 1.5, allowed: at least 0, below 1"),
        (("--num-envs", "0"), "num_envs 0, allowed: at least 1"),
        (("--eval.every-epochs", "0"), "eval.every_epochs 0, allowed: at least 1"),
        (("--demos.count", "-1"), "demos.count -1, allowed: at least 0"),
        (("--run.keep-checkpoints", "0"), "run.keep_checkpoints 0, allowed: at least 1"),
        (("--run.checkpoint-seconds", "-1"), "run.checkpoint_seconds -1.0, allowed: at least 0"),
        (("--agent.target-entropy", "nan"), "agent.target_entropy nan, allowed: finite"),
        (("--loop.batch-size", "300000"), "batch_size 300000, allowed: at most loop.buffer_size"),
        (("--seed", str(2**32)), "seed 4294967296, allowed: 0 to 4294967295"),
        (("--seed", str(10**20)), "seed 100000000000000000000, allowed: 0 to 4294967295"),
    ],
)
def test_a_value_out_of_range(refuse: Refuse, tmp_path: Path, option: tuple[str, str], text: str):
    assert text in one_line(refuse(*option))
    assert runs(tmp_path) == []


# -- run folders -------------------------------------------------------------------------------


def test_a_run_is_never_overwritten(refuse: Refuse, tmp_path: Path):
    taken = tmp_path / "runs" / "mine"
    taken.mkdir(parents=True)
    (taken / "config.json").write_text("precious")
    text = one_line(refuse("--run.name", "mine"))
    assert f"'{taken}' exists and is never overwritten" in text
    assert f"--resume {taken}" in text and "--run.name" in text
    assert (taken / "config.json").read_text() == "precious"


def test_a_name_that_is_a_path(refuse: Refuse, tmp_path: Path):
    assert "must be a plain folder name" in one_line(refuse("--run.name", "../mine"))
    assert runs(tmp_path) == []


def test_resuming_what_does_not_exist(refuse: Refuse, tmp_path: Path):
    (tmp_path / "runs" / "cube-7").mkdir(parents=True)
    (tmp_path / "runs" / "cube-7" / "config.json").write_text("{}")
    text = one_line(refuse("--resume", str(tmp_path / "runs" / "cube-8")))
    assert "cube-8' does not exist. Did you mean: cube-7?" in text
    assert runs(tmp_path) == ["cube-7"]


@pytest.mark.parametrize(("config", "text"), [("{", "is not JSON"), ("{}", "Missing field")])
def test_resuming_a_damaged_config(refuse: Refuse, tmp_path: Path, config: str, text: str):
    (tmp_path / "config.json").write_text(config)
    assert text in one_line(refuse("--resume", str(tmp_path)))
    assert (tmp_path / "config.json").read_text() == config


def test_resuming_takes_the_config_of_the_run(tmp_path: Path):
    cfg = dataclasses.replace(PRESETS["serl"](), seed=5)
    loop.RunFolder(tmp_path).write_config(cfg)
    assert parse_train(["--resume", str(tmp_path)]) == (cfg, tmp_path)
    assert parse_train([f"--resume={tmp_path}"]) == (cfg, tmp_path)
    more = ["--total-env-steps", "7", "--eval.stop-at=2", "--run.video", "off", "--seed", "5"]
    changed, _ = parse_train(["--resume", str(tmp_path), *more])
    assert (changed.total_env_steps, changed.eval.stop_at, changed.run.video) == (7, 2.0, "off")
    kept = {"total_env_steps": cfg.total_env_steps, "eval": cfg.eval, "run": cfg.run}
    assert dataclasses.replace(changed, **kept) == cfg


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--seed", "6"], "--seed 6 (was 5)"),
        (["--physics", "mjx"], "--physics mjx (was auto)"),
        (["--agent.gamma", "0.5", "--num-envs=3"], "--num-envs 3 (was 1), --agent.gamma 0.5"),
        (["--run.name", "other"], "--run.name other (was None)"),
        (["--pixels.cameras", "front"], "--pixels.cameras ['front'] (was [])"),
        (["--preset", "laptop"], "--preset."),
        (["--agent=sac", "--plugin", "mine"], "--plugin, --agent."),
    ],
)
def test_resuming_refuses_what_would_make_another_run(tmp_path: Path, capsys, options, named):
    cfg = dataclasses.replace(PRESETS["serl"](), seed=5)
    loop.RunFolder(tmp_path).write_config(cfg)
    line = ["--resume", str(tmp_path), "--total-env-steps", "9", *options]
    assert guarded(lambda: train(*parse_train(line))) == BAD_INPUT
    text = one_line(capsys.readouterr().err)
    assert (
        f"cannot change {named}" in text and "Allowed: --total-env-steps, --total-updates" in text
    )
    assert loop.RunFolder(tmp_path).read_config(type(cfg)) == cfg


def test_resuming_refuses_an_option_that_is_not_known(tmp_path: Path, capsys):
    loop.RunFolder(tmp_path).write_config(PRESETS["laptop"]())
    with pytest.raises(SystemExit) as stop:
        parse_train(["--resume", str(tmp_path), "--num-env", "3"])
    assert stop.value.code == BAD_INPUT and "--num-envs" in capsys.readouterr().err


@pytest.mark.parametrize(("saved", "status"), [(True, 0), (False, FAILED)])
def test_a_run_whose_end_is_not_on_disk_has_failed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    saved: bool,
    status: int,
):
    """As on a full disk."""
    folder, progress = RunFolder(tmp_path), SimpleNamespace(epoch=7)
    run = SimpleNamespace(folder=folder, progress=progress, saved=saved, train=lambda **_: "done")
    monkeypatch.setattr(commands, "open_run", lambda cfg, resume: contextlib.nullcontext(run))
    assert commands.train(TrainConfig(), None) == status
    assert ("epoch 7 is not on disk" in capsys.readouterr().err) is not saved


def test_a_run_that_fails_before_its_first_epoch_leaves_no_folder(
    refuse: Refuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loop, "available_bytes", lambda among: 40_000_000)
    text = one_line(refuse("--run.name", "mine", "--demos.count", "0"))
    assert "This run needs 2 x 0.0" in text and "0.04 GB are free. Try --loop.buffer-size" in text
    assert runs(tmp_path) == []


def test_nor_does_one_that_python_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(**options: bool) -> None:
        assert runs(tmp_path) == ["mine"]
        raise OSError("no such luck")

    monkeypatch.setattr(commands, "Run", lambda *parts: SimpleNamespace(train=fail))
    with pytest.raises(OSError, match="no such luck"):
        api.train(run=RunConfig(folder=tmp_path / "runs", name="mine"))
    assert runs(tmp_path) == []


# -- what is parsed ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "name"), [("cpu", "laptop"), ("gpu", "fast"), ("tpu", "fast"), ("cuda", "fast")]
)
def test_the_preset_follows_the_device(monkeypatch: pytest.MonkeyPatch, backend: str, name: str):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert parse_train([]) == (PRESETS[name](), None)
    assert parse_train(["--preset", "serl"])[0].preset == "serl"


def test_the_first_line_says_preset_and_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    said = []
    monkeypatch.setattr(ConsoleHook, "on_stage", lambda hook, text: said.append(text))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    kind = SimpleNamespace(device_kind="NVIDIA H200", platform="gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [kind])
    with pytest.raises(KeyError, match="no_task"):
        api.train(run=RunConfig(folder=tmp_path), task="no_task")
    assert said == ["preset fast on NVIDIA H200: building 2048 worlds of no_task"]


def test_options_change_the_preset():
    cfg, _ = parse_train(["--agent.gamma", "0.9", "--preset", "serl", "--demos.file", "x.npz"])
    want = PRESETS["serl"]()
    agent = dataclasses.replace(want.method.agent, gamma=0.9)
    demos = dataclasses.replace(want.method.demos, file=Path("x.npz"))
    method = dataclasses.replace(want.method, agent=agent, demos=demos)
    assert cfg == dataclasses.replace(want, method=method)


def test_the_net_of_an_agent_may_be_another():
    words = ["--preset", "flow_ppo", "--agent.net", "vla", "--agent.net.no-state-token"]
    cfg, _ = parse_train(words)
    assert cfg.method.agent.net == VLAVelocityConfig(state_token=False)
    agent = dataclasses.replace(cfg.method.agent, net=PRESETS["flow_ppo"]().method.agent.net)
    assert agent == PRESETS["flow_ppo"]().method.agent
    with pytest.raises(InputError, match="agent 'sac', which has no net to choose; allowed: with"):
        parse_train(["--agent.net=vla"])
    with pytest.raises(KeyError, match="Unknown velocity net 'vl'"):
        parse_train(["--preset", "flow_ppo", "--agent.net=vl"])


def test_stop_at_may_be_said_without_its_part(tmp_path: Path):
    cfg, _ = parse_train(["--stop-at", "0.5"])
    assert cfg == dataclasses.replace(
        PRESETS["laptop"](), eval=dataclasses.replace(cfg.eval, stop_at=0.5)
    )
    RunFolder(tmp_path).write_config(cfg)
    again, folder = parse_train(["--resume", str(tmp_path), "--stop-at", "2"])
    assert folder == tmp_path and again.eval.stop_at == 2
    assert [str(change) for change in allowed_changes(cfg, again)] == [
        "--eval.stop-at 2.0 (was 0.5)"
    ]


def mjx_in(argv: Sequence[str]) -> bool:
    """What train.py finds out before JAX starts."""
    start, _ = parse_start(argv)
    return needs_mjx(physics=start.physics, run=start.resume)


@pytest.mark.parametrize(
    ("argv", "answer"),
    [
        ([], False),
        (["--physics", "native"], False),
        (["--physics", "mjx"], True),
        (["--seed", "3", "--physics=warp"], True),
        (["--pixels.cameras", "front", "wrist", "--physics", "mjx", "--help"], True),
        (["--run.name", "mjx"], False),
        (["--resume", "nowhere"], False),
    ],
)
def test_mjx_is_noticed_before_jax_starts(argv: Sequence[str], answer: bool):
    assert mjx_in(argv) is answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [('{"physics": "mjx"}', True), ('{"physics": "native"}', False), ("{", False)],
)
def test_a_resumed_run_says_whether_it_needs_mjx(tmp_path: Path, text: str, answer: bool):
    (tmp_path / "config.json").write_text(text)
    assert mjx_in(["--resume", str(tmp_path)]) is answer
    assert needs_mjx(run=tmp_path) is answer


def test_what_is_needed_first_leaves_the_other_words_in_their_order():
    argv = ["--seed", "3", "--preset=serl", "--pixels.cameras", "front", "wrist", "--demos.count=0"]
    start, rest = parse_start(argv)
    assert start.preset == "serl"
    assert rest == ["--seed", "3", "--pixels.cameras", "front", "wrist", "--demos.count=0"]


def test_the_platform_is_prepared_without_jax():
    """train.py --help and bad options must not wait for it, nor may flags come too late."""
    code = (
        "import sys\nfrom mjx_serl.platform import parse_start\n"
        "parse_start(['--physics', 'mjx'])\nassert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize(
    ("name", "value", "after", "told"),
    [
        ("JAX_ENABLE_X64", "1", "0", True),
        ("JAX_ENABLE_X64", "True", "0", True),
        ("JAX_ENABLE_X64", "false", "false", False),
        ("JAX_NUMPY_RANK_PROMOTION", "raise", "allow", True),
        ("JAX_NUMPY_RANK_PROMOTION", "allow", "allow", False),
    ],
)
def test_settings_that_nothing_works_under_are_undone_with_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys, name: str, value: str, after: str, told: bool
):
    monkeypatch.setenv(name, value)
    prepare_platform()
    assert os.environ[name] == after
    line = f"{name}={value} is ignored: nothing here works under it\n"
    assert capsys.readouterr().err == (line if told else "")


@pytest.mark.parametrize(
    ("setting", "value", "text"),
    [
        ("jax_enable_x64", True, r"jax_enable_x64 is True \(allowed: False\)"),
        (
            "jax_numpy_rank_promotion",
            "raise",
            r"jax_numpy_rank_promotion is raise \(allowed: allow",
        ),
    ],
)
def test_worlds_under_such_settings_are_refused(setting: str, value: object, text: str):
    """Where a library has set them after the environment was read."""
    old = getattr(jax.config, setting)
    jax.config.update(setting, value)
    try:
        with pytest.raises(ValueError, match=text):
            make_env(TASK)
    finally:
        jax.config.update(setting, old)


def test_ctrl_c_before_the_first_epoch_is_no_traceback(capsys: pytest.CaptureFixture[str]):
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert guarded(interrupted) == INTERRUPTED
    assert capsys.readouterr().err == "Interrupted.\n"


def test_a_mistake_of_ours_keeps_its_traceback():
    def broken() -> int:
        raise AssertionError("a bug")

    with pytest.raises(AssertionError, match="a bug"):
        guarded(broken)


def test_a_refusals_kind_of_error_out_of_a_bug_keeps_its_traceback():
    """ValueError and KeyError are what we refuse with, and what numpy and a dict raise too."""
    with pytest.raises(ValueError, match="cannot reshape"):
        guarded(lambda: np.zeros(2).reshape(3).size)
    with pytest.raises(KeyError, match="lost"):
        guarded(lambda: {}["lost"])
    with pytest.raises(ValueError, match="invalid literal"):
        guarded(lambda: int("one"))


def test_where_a_refusal_came_from_can_be_seen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(SHOW_TRACEBACK, "1")
    with pytest.raises(KeyError, match="Did you mean 'laptop'"):
        guarded(lambda: train(*parse_train(["--preset", "laptob"])))


def test_what_the_disk_refuses_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert guarded(lambda: len((tmp_path / "none").read_text())) == BAD_INPUT
    assert f"No such file or directory: '{tmp_path / 'none'}'" in one_line(capsys.readouterr().err)


# -- demonstrations ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file made by record_demos.py."""
    path = tmp_path_factory.mktemp("shown") / "demos.npz"
    main = record.main
    assert main(path, task=TASK, episodes=2) == 0
    return path


def test_recorded_demonstrations_fit_their_task(recorded: Path):
    env = make_env(TASK, physics="native")
    contract = DemoContract.of(TASK, env.obs_spec, env.action_spec, episode_steps=100)
    rows = load_demos(recorded, contract)
    assert rows.reward.shape == (100, 2)
    assert rows.expert.all() and np.abs(rows.action).max() <= 1.0
    np.testing.assert_array_equal((rows.terminated & rows.valid).sum(0), [1, 1])
    np.testing.assert_array_equal((rows.reward * rows.valid).sum(0), [1, 1])


def test_recording_never_overwrites(recorded: Path, capsys: pytest.CaptureFixture[str]):
    before = recorded.read_bytes()
    main = record.main
    assert guarded(lambda: main(recorded, task=TASK, episodes=2)) == BAD_INPUT
    assert "never overwritten" in one_line(capsys.readouterr().err)
    assert recorded.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("a.hdf5", {}, "Demonstrations are .npz files, got"),
        ("a.npz", {"episodes": 0}, "episodes 0, allowed: 1 to 100000"),
        ("a.npz", {"noise": -1.0}, "noise -1.0, allowed: at least 0"),
        ("a.npz", {"noise": float("nan")}, "noise nan, allowed: at least 0"),
        ("/dev/null/a.npz", {}, "File exists: '/dev/null'"),
    ],
)
def test_what_cannot_be_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, options: dict, text: str
):
    main = record.main
    assert guarded(lambda: main(tmp_path / name, task=TASK, **options)) == BAD_INPUT
    assert text in one_line(capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_demonstrations_of_another_task(refuse: Refuse, recorded: Path, tmp_path: Path):
    """One line for each thing that differs: the task, its rate and scale."""
    text = refuse("--demos.file", str(recorded), "--task", "franka/pick_cube_dense")
    lines = text.strip().splitlines()
    assert lines[0].startswith("error: demos.npz: ")
    assert [line.split("demos.npz: ")[1].split(":")[0] for line in lines] == [
        "task",
        "action_scale [m per step, gripper 1]",
        "rate [Hz]",
    ]
    text = one_line(refuse("--demos.file", str(recorded), "--task", "franka/pick_cube_paced"))
    assert "task: task franka/pick_cube_paced, demonstrations franka/pick_cube; --demos.rel" in text
    assert runs(tmp_path) == []


def test_judging_anew_by_the_same_task_changes_nothing(recorded: Path):
    """Bit for bit, which says that a file holds all that a task reads."""
    observer = Observer(make_env(TASK, physics="native"))
    built = DemoConfig(file=recorded, relabel=True).build(observer)
    assert isinstance(built, RecordedDemos)
    want = load_demos(recorded, demo_contract(observer))
    # Beyond an episode's end the worlds went on; what came of it is nobody's.
    for name in ("terminated", "truncated"):
        mine = np.asarray(getattr(want, name)) & want.valid
        np.testing.assert_array_equal(getattr(built.recorded, name), mine, name)
    for name in ("valid", "action", "expert"):
        np.testing.assert_array_equal(getattr(built.recorded, name), getattr(want, name), name)
    np.testing.assert_array_equal(built.recorded.reward, np.where(want.valid, want.reward, 0.0))
    assert built.recorded.extras == {}


def test_a_variant_of_the_task_takes_what_it_judges_anew(recorded: Path):
    paced = Observer(make_env("franka/pick_cube_paced", physics="native"))
    built = DemoConfig(file=recorded, relabel=True).build(paced)
    assert isinstance(built, RecordedDemos)
    np.testing.assert_array_equal(built.recorded.reward.sum(0), [1, 1])


def test_nothing_to_judge_anew(refuse: Refuse, recorded: Path, tmp_path: Path):
    """No file, or one in which nothing is solved: here the same with the cube on the table."""
    with np.load(recorded) as file:
        arrays = {name: np.array(file[name]) for name in file.files}
    cube = make_env(TASK, physics="native").scene.objects["cube"].body_id
    arrays["state/sim/xpos"][..., cube, 2] = 0.02
    np.savez(tmp_path / "low.npz", **arrays)
    text = one_line(refuse("--demos.relabel", "--demos.file", str(tmp_path / "low.npz")))
    assert "'franka/pick_cube' pays for none of its 2 episodes" in text
    assert "name it with --demos.file" in one_line(refuse("--demos.relabel"))


def test_demonstrations_that_are_not_there(refuse: Refuse, tmp_path: Path):
    text = one_line(refuse("--demos.file", str(tmp_path / "none.npz")))
    assert "none.npz' do not exist; `python record_demos.py " in text


def test_a_folder_or_another_file_as_demonstrations_is_told_what_it_is(
    refuse: Refuse, tmp_path: Path
):
    (tmp_path / "recordings").mkdir()
    text = one_line(refuse("--demos.file", str(tmp_path / "recordings")))
    assert "are a folder, allowed: one .npz file; of recordings in it `python -m robot_" in text
    np.savez(tmp_path / "encoder.npz", **{name: np.zeros(2) for name in "abcde"})
    text = one_line(refuse("--demos.file", str(tmp_path / "encoder.npz")))
    assert "'contract' is missing, its arrays are a, b, c, d, ...; allowed: .npz files that" in text
    (tmp_path / "serl.pkl").write_bytes(b"\x80\x04")
    text = one_line(refuse("--demos.file", str(tmp_path / "serl.pkl")))
    assert "not a zip file; allowed: .npz files that `python record_demos.py`, `" in text
    assert "of other projects' files, `python -m mjx_serl.demos import` wrote" in text
    assert runs(tmp_path) == []


def test_parameters_of_a_run_that_is_not_there(refuse: Refuse, tmp_path: Path):
    text = one_line(refuse("--init", str(tmp_path / "nowhere")))
    assert "nowhere' does not exist" in text and runs(tmp_path) == []


def test_a_bundle_where_a_run_is_asked_for(tmp_path: Path):
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"is a bundle, allowed: a run folder; `python dep"):
        RunFolder.open(tmp_path)


TINY = [
    *("--preset", "laptop", "--num-envs", "4", "--total-env-steps", "24"),
    *("--agent.hidden", "16", "16"),
    *("--loop.steps-per-epoch", "3", "--loop.updates-per-step", "2", "--loop.batch-size", "16"),
    *("--loop.warmup-steps", "24", "--loop.buffer-size", "400", "--eval.check-episodes", "2"),
    *("--eval.episodes", "2", "--run.no-tensorboard", "--run.no-bundle"),
]


def test_training_with_a_recorded_file(
    recorded: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    seen = []
    monkeypatch.setattr(OffPolicyConfig, "cautions", lambda *_: ["think of it"])
    monkeypatch.setattr(demonstrations.ScriptedDemos, "rows", lambda *args: seen.append(args))
    folder = ["--run.folder", str(tmp_path), "--run.name", "mine"]
    cfg, _ = parse_train([*TINY, *folder, "--demos.file", str(recorded)])
    assert train(cfg, None) == 0
    assert capsys.readouterr().err.count("warning: think of it\n") == 1
    assert not seen, "the scripted expert was asked although there is a file"
    summary = json.loads((tmp_path / "mine" / "summary.json").read_text())
    assert summary["agent"] == "rlpd" and summary["env_steps"] == 24
    # The training benchmark reads the same folder.
    row = read_run(tmp_path / "mine")
    assert row["env_steps"] == 24 and row["updates_per_second"] > 0
    assert row["wall_seconds"] == summary["wall_seconds"]
    run = commands.Run(cfg, loop.RunFolder(tmp_path / "mine"))
    state, step, _ = run.store.restore(run.trainer.state_shapes())
    assert step == 2
    with np.load(recorded) as file:
        np.testing.assert_array_equal(state.data["demos"].data.action, file["action"])


def test_a_mistaken_expert_is_noticed(tmp_path: Path, recorded: Path, refuse: Refuse):
    """A NaN in a file is refused before anything is trained."""
    env = make_env(TASK, physics="native")
    contract = DemoContract.of(TASK, env.obs_spec, env.action_spec, episode_steps=100)
    rows: Transition = load_demos(recorded, contract)
    rows.obs["ee_position"][3, 0, 0] = np.nan
    save_demos(tmp_path / "bad.npz", rows, contract)
    text = one_line(refuse("--demos.file", str(tmp_path / "bad.npz")))
    assert "bad.npz: array 'obs/ee_position' is not finite" in text
