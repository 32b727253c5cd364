"""What a run leaves for a robot: complete, one policy in three forms, never at the run's cost."""

import dataclasses
import importlib.util
import inspect
import json
import os
import runpy
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load_file
from tiny_bundle import drawn_policy, summary_of, tiny_config, tiny_run, with_changes

from mjx_serl.agents.ppo import PPOConfig
from mjx_serl.agents.sac import SACConfig
from mjx_serl.api import load
from mjx_serl.envs.observation import PixelConfig
from mjx_serl.export import bundle as bundle_module
from mjx_serl.export import golden as golden_module
from mjx_serl.export.bundle import RunBundle, publish, statistics, write_bundle
from mjx_serl.export.export_run import export
from mjx_serl.export.golden import golden_samples
from mjx_serl.nets.encoders import EncoderConfig
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.hooks import JsonlHook
from mjx_serl.run.loop import Run
from mjx_serl.training.on_policy import OnPolicyConfig
from mjx_serl.training.state import PolicyParams
from mjx_serl.types import choice
from robot_bridge.policy.bundle import load_bundle
from robot_bridge.policy.policy import StackingPolicy
from scenes.contract.manifest import FILES, OPTIONAL, SUMS, TOLERANCE, Manifest, read_manifest
from scenes.contract.serialize import digest

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass
class Made:
    """A run, a state of it, and the bundle of both."""

    run: Run
    policy: PolicyParams
    path: Path
    manifest: Manifest

    @property
    def golden(self) -> dict[str, np.ndarray]:
        with np.load(self.path / "golden.npz", allow_pickle=False) as file:
            return {name: file[name] for name in file.files}


def make(root: Path, **changes: Any) -> Made:
    run = tiny_run(root, **changes)
    state = drawn_policy(run)
    manifest = write_bundle(run, state, root / "bundle", summary=summary_of(run))
    return Made(run, state, root / "bundle", manifest)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The bundle of a state policy."""
    return make(tmp_path_factory.mktemp("state"))


def by_onnx(made: Made) -> np.ndarray:
    """Actions of policy.onnx at the golden observations."""
    model = (made.path / "policy.onnx").read_bytes()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    golden = made.golden
    return np.stack(
        [
            np.asarray(session.run(None, {n: golden[f"obs/{n}"][i : i + 1] for n in names})[0])[0]
            for names in [made.run.observer.contract.obs.names]
            for i in range(len(golden["actions"]))
        ]
    )


# -- what is in it ---------------------------------------------------------------------------------


def test_it_holds_its_files_and_sha256sum_agrees(made: Made):
    assert {p.name for p in made.path.iterdir()} == {*FILES} - {*OPTIONAL}
    done = subprocess.run(["sha256sum", "-c", "--strict", SUMS], cwd=made.path, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(FILES) - len(OPTIONAL) - 1
    assert list(made.path.parent.glob(".bundle.tmp-*")) == []


def test_the_manifest_says_where_the_policy_comes_from(made: Made):
    manifest = read_manifest((made.path / "manifest.json").read_bytes())
    assert manifest == made.manifest
    contract = made.run.observer.contract
    assert manifest.contract == contract and manifest.contract_digest == digest(contract)
    assert (manifest.task, manifest.agent) == ("franka/pick_cube", "sac")
    assert (manifest.rate, manifest.horizon) == (contract.action.rate, 1)
    assert manifest.measured.success_rate == 0.5 and manifest.measured.ci95 == (0.1, 0.9)
    assert manifest.commit == "0123456789ab"
    sizes = {p.name: p.stat().st_size for p in made.path.iterdir()}
    assert all(sizes[name] == size for name, size in manifest.sizes.items())


def test_statistics_are_those_that_scale(made: Made):
    """mean and std undo what `normalize` does."""
    golden, stats = made.golden, statistics(made.policy.normalizer)
    assert stats == made.manifest.normalizer
    trainer, seen = made.run.trainer.exact(), {}
    remember = dataclasses.replace(trainer, agent=Remembering(seen))
    obs = {name: golden[f"obs/{name}"] for name in made.run.observer.contract.obs.names}
    remember.choose(made.policy, obs, jax.random.key(0), deterministic=True)
    for name, stat in stats.items():
        scaled = (obs[name] - np.float32(stat.mean)) / np.float32(stat.std)
        np.testing.assert_allclose(seen[name], np.clip(scaled, -10, 10), rtol=1e-5, atol=1e-6)


@dataclasses.dataclass(frozen=True)
class Remembering:
    """An agent that keeps what it is shown."""

    seen: dict

    def act(self, state: Any, obs: Any, key: Any, *, deterministic: bool) -> Any:
        self.seen.update(obs)
        return choice(obs["ee_lag"])


def test_golden_observations_are_of_many_moments(made: Made):
    golden, contract = made.golden, made.run.observer.contract
    count = len(golden["actions"])
    assert count >= 16
    assert golden["actions"].shape == (count, 1, contract.action.dim)
    for field in contract.obs.fields:
        x = golden[f"obs/{field.name}"]
        assert x.shape == (count, *field.shape) and x.dtype == field.dtype
        assert np.isfinite(x).all()
    for name in ("cube_position", "ee_position", "joint_velocity"):
        assert len(np.unique(golden[f"obs/{name}"], axis=0)) > 3
    assert golden["actions"].std(axis=0).min() > 1e-3


def test_a_policy_of_chunks_says_how_many_actions_it_gives(tmp_path: Path):
    made = make(tmp_path, agent=SACConfig(hidden=(16, 16), horizon=2))
    count, dim = len(made.golden["actions"]), made.run.env.action_dim
    assert made.manifest.horizon == 2 and made.golden["actions"].shape == (count, 2, dim)
    np.testing.assert_allclose(by_onnx(made), made.golden["actions"], atol=TOLERANCE)
    obs = {name: made.golden[f"obs/{name}"] for name in made.run.observer.contract.obs.names}
    near = partial(np.testing.assert_allclose, atol=TOLERANCE)
    near(load(made.path).act(obs), made.golden["actions"])
    first = {name: x[0] for name, x in obs.items()}
    near(load_bundle(made.path).policy.act(first), made.golden["actions"][0])


def test_golden_episodes_depend_on_the_seed_alone(made: Made):
    trainer = made.run.trainer.exact()
    same, other = (
        golden_samples(trainer, made.run.observer, made.policy, seed=seed) for seed in (0, 1)
    )
    np.testing.assert_array_equal(same["actions"], made.golden["actions"])
    assert not np.array_equal(other["obs/cube_position"], same["obs/cube_position"])


# -- one policy, three forms -----------------------------------------------------------------------


def by_stablehlo(path: Path) -> np.ndarray:
    """Actions of policy.stablehlo with params.safetensors at the golden observations."""
    act = jax.export.deserialize(bytearray((path / "policy.stablehlo").read_bytes()))
    assert act.platforms == ("cpu", "cuda"), act.platforms
    params, golden = load_file(path / "params.safetensors"), np.load(path / "golden.npz")
    names = [n.removeprefix("obs/") for n in golden.files if n != "actions"]
    call = jax.jit(act.call)
    found = [
        call(params, {n: golden["obs/" + n][i : i + 1] for n in names})[0]
        for i in range(len(golden["actions"]))
    ]
    return np.stack(found)


def by_jax_alone(made: Made) -> np.ndarray:
    """`by_stablehlo` in a process that has jax alone."""
    code = f"""if True:
        import sys, jax, jax.export, numpy as np
        from pathlib import Path
        from safetensors.numpy import load_file
        {textwrap.indent(inspect.getsource(by_stablehlo), " " * 8).lstrip()}
        np.save(sys.argv[2], by_stablehlo(Path(sys.argv[1])))
        assert not {{"mjx_serl", "flax", "optax", "mujoco", "scenes"}} & sys.modules.keys()
    """
    out = made.path.parent / "found.npy"
    done = subprocess.run(
        [sys.executable, "-c", code, str(made.path), str(out)],
        cwd=made.path.parent,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return np.load(out)


def test_stablehlo_with_the_parameters_is_the_trained_policy(made: Made):
    np.testing.assert_allclose(by_jax_alone(made), made.golden["actions"], atol=1e-6)


def test_onnx_is_the_trained_policy(made: Made):
    np.testing.assert_allclose(by_onnx(made), made.golden["actions"], atol=2e-6)


def test_nothing_of_this_machine_leaves(made: Made):
    for file in made.path.iterdir():
        content = file.read_bytes()
        for trace in (b".py", str(ROOT).encode(), str(Path.home()).encode() + b"/"):
            assert trace not in content, (file.name, trace)


def test_no_setting_of_jax_makes_a_program_name_its_source():
    """Full tracebacks off: every operation would name the line that made it."""
    option, before = "jax_include_full_tracebacks_in_locations", True
    try:
        jax.config.update(option, False)
        program = bundle_module._stablehlo(
            lambda params, obs: {"action": jnp.tanh(params["w"] @ obs["x"])},
            {"w": jnp.ones((2, 3))},
            {"x": jax.ShapeDtypeStruct((3,), jnp.float32)},
        )
        assert not getattr(jax.config, option), "as it was"
    finally:
        jax.config.update(option, before)
    assert b".py" not in program


def test_only_what_the_policy_reads_leaves(made: Made):
    params = load_file(made.path / "params.safetensors")
    assert {name.split("/")[0] for name in params} == {"agent", "normalizer"}
    assert not [n for n in params if "critic" in n or "opt" in n or "temperature" in n]
    actor = {n for n in params if n.startswith("agent/actor/params/")}
    leaves = jax.tree.leaves(made.policy.agent.actor.params)
    assert len(actor) == len(leaves)
    assert sum(params[n].size for n in actor) == sum(x.size for x in leaves)


CAMERAS = ("front", "wrist")
SEEING = {
    "drq": {"pixels": PixelConfig(cameras=CAMERAS, size=32, splats=800)},
    "bfloat16": {"agent": SACConfig(hidden=(16, 16), compute_dtype="bfloat16")},
    "ppo": {"method": OnPolicyConfig(agent=PPOConfig(hidden=(16, 16)))},
    "resnet10": {
        "pixels": PixelConfig(cameras=("wrist",), size=32, splats=800),
        "agent": SACConfig(hidden=(16,), encoder=EncoderConfig(name="resnet10", features=8)),
    },
    "frozen": {"pixels": PixelConfig(cameras=CAMERAS, splats=800, frozen="pick_cube")},
    "stacked": {"pixels": PixelConfig(cameras=CAMERAS, size=32, splats=800, stack=3)},
    "depth": {"pixels": PixelConfig(cameras=("wrist",), size=32, splats=800, stack=2, depth=2.0)},
    "stacked features": {
        "pixels": PixelConfig(cameras=CAMERAS, splats=800, frozen="pick_cube", stack=2)
    },
    "maps": {
        "pixels": PixelConfig(
            cameras=("wrist",), size=32, splats=800, frozen="resnet10_random", readout="maps"
        ),
        "agent": SACConfig(hidden=(16,), encoder=EncoderConfig(features=8)),
    },
}


def slow_with_cameras(kind: str) -> Any:
    return pytest.param(kind, marks=[pytest.mark.slow] if "pixels" in SEEING[kind] else [])


@pytest.mark.parametrize("kind", [slow_with_cameras(kind) for kind in SEEING])
def test_every_kind_of_policy_leaves(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch):
    """Small convolutions, ResNet-10, frozen encoders, embeddings of maps, products in bfloat16."""
    # Two moments of four episodes.
    monkeypatch.setattr(golden_module, "GOLDEN_STEPS", golden_module.GOLDEN_EVERY + 1)
    made = make(tmp_path, **SEEING[kind])
    cameras = [f.name for f in made.run.observer.contract.obs.fields if f.dtype == "uint8"]
    pixels = SEEING[kind].get("pixels", PixelConfig())
    assert cameras == [*pixels.cameras]
    for name in cameras:
        pictures = made.golden[f"obs/{name}"]
        channels = (4 if pixels.depth else 3) * pixels.stack
        assert pictures.shape[1:] == (pixels.size, pixels.size, channels)
        assert pictures.dtype == np.uint8 and pictures.std() > 10, "something is seen"
    np.testing.assert_allclose(by_onnx(made), made.golden["actions"], atol=TOLERANCE / 2)
    np.testing.assert_allclose(by_stablehlo(made.path), made.golden["actions"], atol=TOLERANCE / 2)
    loaded = load_bundle(made.path)
    assert loaded.contract.stack == pixels.stack and loaded.golden_error < TOLERANCE
    assert isinstance(loaded.policy, StackingPolicy) == (pixels.stack > 1)
    areas = {name.split("/")[0] for name in load_file(made.path / "params.safetensors")}
    assert areas == {"agent", "normalizer"} | ({"encoder"} if pixels.frozen else set())
    trained = made.run.cfg.method.agent.compute_dtype
    assert made.manifest.trained_in == trained
    as_trained = made.run.trainer.agent.cfg.compute_dtype
    assert as_trained == trained and made.run.trainer.exact().agent.cfg.compute_dtype == "float32"


# -- what is refused -------------------------------------------------------------------------------


def test_a_bundle_is_never_overwritten(made: Made):
    before = {p.name: p.read_bytes() for p in made.path.iterdir()}
    with pytest.raises(FileExistsError, match="is never overwritten. Hint: give another folder"):
        write_bundle(made.run, made.policy, made.path, summary=None)
    assert {p.name: p.read_bytes() for p in made.path.iterdir()} == before


def test_parameters_that_are_not_finite_do_not_leave(made: Made, tmp_path: Path):
    actor = made.policy.agent.actor
    broken = jax.tree.map(lambda x: np.full_like(x, np.nan), actor.params)
    agent = made.policy.agent.replace(actor=actor.replace(params=broken))
    with pytest.raises(ValueError, match="'agent/actor/params/.*' has values that are not finite"):
        write_bundle(made.run, made.policy.replace(agent=agent), tmp_path / "out", summary=None)
    assert list(tmp_path.iterdir()) == []


def test_another_policy_does_not_leave(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The check against the training process can fail."""
    samples = golden_samples(made.run.trainer.exact(), made.run.observer, made.policy, seed=0)
    samples["actions"] = samples["actions"] + np.float32(1e-3)
    monkeypatch.setattr(bundle_module, "golden_samples", lambda *args, **more: samples)
    with pytest.raises(ValueError, match="differs from the trained one by 1.00e-03 at golden"):
        write_bundle(made.run, made.policy, tmp_path / "out", summary=None)
    assert list(tmp_path.iterdir()) == []


def test_half_a_bundle_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        publish(tmp_path / "out", {"policy.onnx": b"x"})
    assert list(tmp_path.iterdir()) == []


# -- at the end of a run ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that has ended, with what it left."""
    root = tmp_path_factory.mktemp("trained")
    cfg = with_changes(tiny_config(root, agent=SACConfig(hidden=(8,))), name="run")
    folder = RunFolder.create(root, task=cfg.task, agent="sac", seed=0, name="run")
    folder.write_config(cfg)
    run = Run(cfg, folder, [JsonlHook(folder)], [RunBundle()])
    assert run.train() is not None
    return run


def test_a_run_leaves_its_bundle(trained: Run):
    summary = trained.folder.read_summary()
    manifest = read_manifest((trained.folder.bundle / "manifest.json").read_bytes())
    assert manifest.measured.success_rate == summary.success_rate
    assert manifest.measured.episodes == summary.episodes == 2
    assert manifest.commit == summary.commit


def test_a_run_on_disk_is_exported_again_the_same(
    trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = export(trained.folder.path, tmp_path / "again")
    assert "franka/pick_cube, success" in capsys.readouterr().out
    for name in ("params.safetensors", "policy.onnx", "policy.stablehlo"):
        assert (out / name).read_bytes() == (trained.folder.bundle / name).read_bytes(), name
    with pytest.raises(FileExistsError, match="never overwritten"):
        export(trained.folder.path, None)


def test_resuming_a_finished_run_keeps_its_bundle(trained: Run, capsys: pytest.CaptureFixture[str]):
    before = (trained.folder.bundle / SUMS).read_bytes()
    Run(trained.cfg, trained.folder, outputs=[RunBundle()]).train(resume=True)
    assert (trained.folder.bundle / SUMS).read_bytes() == before
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "bundle" in x]
    assert line.startswith("warning: no policy bundle was written (") and "never" in line


def test_a_run_that_went_on_replaces_its_bundle_and_keeps_the_old(tmp_path: Path, capsys):
    run = tiny_run(tmp_path)
    out, policy = run.folder.bundle, drawn_policy(run)
    for earlier in range(3):
        (out / "old").mkdir(parents=True)
        (out / "old" / str(earlier)).touch()
        run.progress.epoch, run.start_epoch = 2, 1
        RunBundle().after_run(run, policy, summary_of(run))
        assert (out / SUMS).is_file() and not (out / "old").exists()
        assert (run.folder.path / f"bundle-{earlier + 1}" / "old" / str(earlier)).exists()
    assert not (run.folder.path / "bundle-new").exists()
    assert capsys.readouterr().out.count(f"bundle {out} ") == 3


def test_a_run_may_leave_none(tmp_path: Path):
    run = tiny_run(tmp_path)
    run.cfg = with_changes(run.cfg, bundle=False)
    RunBundle().after_run(run, drawn_policy(run), summary_of(run))
    assert not run.folder.bundle.exists()


def test_without_the_extra_a_run_ends_as_well_and_says_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnx" else find(name)
    )
    run = tiny_run(tmp_path)
    RunBundle().after_run(run, drawn_policy(run), summary_of(run))
    assert not run.folder.bundle.exists()
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "bundle" in x]
    assert "need onnx. Hint: pip install mjx-serl, then python -m mjx_serl.export" in line


def test_an_export_that_fails_does_not_fail_the_run(
    trained: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def broken(*args: Any, **more: Any) -> None:
        raise NotImplementedError("Primitive 'cosh' has no rule\nand more")

    monkeypatch.setattr(bundle_module, "write_bundle", broken)
    untouched = (trained.folder.bundle / SUMS).read_bytes()
    RunBundle().after_run(trained, drawn_policy(trained), None)
    assert (trained.folder.bundle / SUMS).read_bytes() == untouched
    said = capsys.readouterr().err
    assert said == "warning: no policy bundle was written (Primitive 'cosh' has no rule)\n"


@pytest.mark.slow
def test_the_command_line_exports(
    trained: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    """As a user calls it; a second time it says in one line why not."""
    words = [str(trained.folder.path), str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["mjx_serl.export", *words])
    for code in (0, 2):
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_module("mjx_serl.export", run_name="__main__")
        assert ended.value.code == code
    said = capfd.readouterr().err
    assert said.startswith("error: ") and len(said.splitlines()) == 1
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["task"]


def test_a_policy_is_exact_on_any_device(made: Made):
    """Golden products are asked for in full float32: on GPUs the default is TF32."""
    seen = []

    def act(*args: Any, **more: Any) -> Any:
        seen.append(jax.config.jax_default_matmul_precision)
        return choice(jnp.zeros((4, 4)))

    agent = type("Spy", (), {"act": staticmethod(act), "acting": staticmethod(lambda x: x)})()
    trainer = dataclasses.replace(made.run.trainer.exact(), agent=agent)
    golden_samples(trainer, made.run.observer, made.policy, seed=0)
    assert set(seen) == {"highest"}
