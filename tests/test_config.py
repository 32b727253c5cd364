"""Presets carry the published numbers, every config survives JSON, and refusals are helpful."""

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from robot_fits import make_fit

from mjx_serl.config import TrainConfig
from mjx_serl.envs.judge import RewardConfig
from mjx_serl.envs.observation import Observer, PixelConfig
from mjx_serl.envs.vector import epoch_pool
from mjx_serl.experiments import PRESETS, preset
from mjx_serl.nets.classifier import (
    ClassifierSpec,
    RewardClassifier,
    SuccessNet,
    save_classifier,
)
from mjx_serl.nets.encoders import EncoderConfig
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.memory_check import available_bytes, check_memory
from mjx_serl.tasks.alternating import Alternating
from mjx_serl.training.demonstrations import DemoConfig
from mjx_serl.training.off_policy import LoopConfig, OffPolicyConfig
from mjx_serl.training.on_policy import OnPolicy, OnPolicyConfig
from mjx_serl.training.on_policy_chunks import OnPolicyChunks, OnPolicyChunksConfig
from mjx_serl.training.pair import PairConfig
from mjx_serl.training.state import TrainState, tree_bytes
from scenes.contract.robot_fit import save_robot_fit
from scenes.contract.serialize import from_json, to_json
from scenes.contract.specs import ObsSpec

# Reference serl_family.md 1.2 and 1.3: SERL's make_sac_agent, HIL-SERL's pixel agent.
COMMON = {
    "agent.hidden": (256, 256),
    "agent.activation": "tanh",
    "agent.layer_norm": True,
    "agent.init_temperature": 0.01,
    "agent.target_entropy": None,  # -dim(A) / 2
    "agent.backup_entropy": False,
    "agent.tau": 0.005,
    "agent.lr": 3e-4,
    "agent.clip_norm": None,
    "agent.actor_q": "mean",
    "agent.n_step": 1,
    "agent.bc_weight": 0.0,
    "loop.batch_size": 256,
    "loop.updates_per_step": 1,
    "num_envs": 1,
}
PUBLISHED = {
    "serl": {
        "task": "franka/pick_cube_dense",
        "agent.gamma": 0.99,
        "agent.critic_ensemble_size": 10,
        "agent.critic_subsample_size": 2,
        "agent.lr_warmup_steps": 2000,
        "agent.utd_ratio": 8,
        "agent.adam_ticks": "shared_apart",  # 9 ticks
        "loop.buffer_size": 1_000_000,
        "loop.warmup_steps": 300,
        "demos.count": 0,
    },
    "hil_serl": {
        "task": "franka/pick_cube",
        "agent.gamma": 0.97,
        "agent.critic_ensemble_size": 2,
        "agent.critic_subsample_size": None,
        "agent.lr_warmup_steps": 0,
        "agent.utd_ratio": 2,
        "agent.adam_ticks": "shared",  # 2 ticks
        "loop.buffer_size": 200_000,
        "loop.warmup_steps": 100,
        "loop.demo_fraction": 0.5,
        "demos.count": 20,
    },
}


# Those that step worlds; an on-policy epoch is one rollout, whose starts the worlds tell.
STEPPED = [
    name
    for name in PRESETS
    if hasattr(PRESETS[name]().method, "pool_size")
    and not isinstance(PRESETS[name]().method, OnPolicyConfig | OnPolicyChunksConfig)
]


def with_method(cfg: TrainConfig, **changes: Any) -> TrainConfig:
    return dataclasses.replace(cfg, method=dataclasses.replace(cfg.method, **changes))


def lookup(cfg: TrainConfig, path: str) -> Any:
    part = path.split(".")[0]
    for name in path.split(".") if hasattr(cfg, part) else ["method", *path.split(".")]:
        cfg = getattr(cfg, name)
    return cfg


# Reference serl_family.md 1.3, BC: SERL's `bc_policy.py`, HIL-SERL's `train_bc.py`.
CLONING = {
    "bc_serl": {
        "agent.hidden": (256, 256),
        "agent.layer_norm": False,
        "agent.dropout": 0.0,
        "agent.crop": 0,
        "demos.count": 100,
    },
    "bc_hil": {
        "agent.hidden": (512, 512, 512),
        "agent.layer_norm": True,
        "agent.dropout": 0.25,
        "agent.crop": 4,
    },
}
EVERY_CLONING = {"agent.activation": "tanh", "agent.lr": 3e-4, "loop.batch_size": 256}
# HIL-SERL's hybrid is its learner with grippers apart.
HYBRID = {
    "agent.sac" if path == "agent" else path.replace("agent.", "agent.sac."): value
    for path, value in (COMMON | PUBLISHED["hil_serl"]).items()
} | {"agent.grasp_penalty": 0.02}


@pytest.mark.parametrize("name", [*CLONING])
def test_cloning_presets_carry_the_published_numbers(name: str):
    cfg = PRESETS[name]()
    want = EVERY_CLONING | CLONING[name]
    assert {path: lookup(cfg, path) for path in want} == want
    assert cfg.total_updates == 20_000


def test_the_hybrid_preset_carries_the_published_numbers():
    cfg = PRESETS["hybrid"]()
    assert {path: lookup(cfg, path) for path in HYBRID} == HYBRID


@pytest.mark.parametrize("name", [*PUBLISHED])
def test_presets_carry_the_published_numbers(name: str):
    cfg = PRESETS[name]()
    want = COMMON | PUBLISHED[name]
    assert {path: lookup(cfg, path) for path in want} == want


@pytest.mark.parametrize("name", [*PRESETS])
def test_every_preset_survives_the_run_folder(name: str, tmp_path: Path):
    cfg = PRESETS[name]()
    folder = RunFolder(tmp_path)
    folder.write_config(cfg)
    assert folder.read_config(TrainConfig) == cfg
    assert cfg.preset == name


def test_every_changed_field_survives_json():
    """Each field in turn, with a value that is not its default."""
    cfg = PRESETS["laptop"]()
    for part in ("agent", "loop", "demos", "eval", "run"):
        owner = cfg if hasattr(cfg, part) else cfg.method
        for field in dataclasses.fields(getattr(owner, part)):
            value = getattr(getattr(owner, part), field.name)
            if isinstance(value, bool):
                changed: Any = not value
            elif isinstance(value, int | float):
                changed = value + 1
            elif field.name in ("file", "folder"):
                changed = Path("other/place")
            else:
                continue
            new = dataclasses.replace(getattr(owner, part), **{field.name: changed})
            new = dataclasses.replace(owner, **{part: new})
            other = new if owner is cfg else dataclasses.replace(cfg, method=new)
            assert from_json(TrainConfig, to_json(other)) == other != cfg


@pytest.mark.parametrize("name", [*PRESETS])
def test_every_preset_says_how_to_run_it(name: str):
    text = PRESETS[name].__doc__ or ""
    assert f"--preset {name}" in text or "make train" in text


@pytest.mark.parametrize("name", [*PRESETS])
def test_every_preset_builds(name: str):
    """Static parts only; the fast preset's thousands of worlds are not started."""
    cfg = PRESETS[name]()
    task: Any = SimpleNamespace(episode_steps=100)
    if isinstance(cfg.method, PairConfig):
        task = Alternating(("there", "back"), (task, task))
    env: Any = SimpleNamespace(task=task, obs_spec=ObsSpec(fields=()))
    trainer = cfg.build(Observer(env))
    if trainer.env_steps_per_epoch == 0:
        assert cfg.total_updates is not None
        assert cfg.total_updates % trainer.updates_per_epoch == 0
        return
    trainer = getattr(trainer, "one", trainer)  # of a pair, how either learns
    assert trainer.vec_env.num_envs == cfg.num_envs
    if isinstance(trainer, OnPolicy | OnPolicyChunks):
        assert trainer.vec_env.pool_size == cfg.method.loop.pool * cfg.num_envs
        return
    rows = trainer.sources["online"].buffer.capacity_rows
    assert rows * cfg.num_envs <= cfg.method.loop.buffer_size
    assert set(trainer.sources) == {"online"} | ({"demos"} if cfg.method.demos.count else set())
    assert sum(source.fraction for source in trainer.sources.values()) == 1.0


@pytest.mark.parametrize("name", [name for name in STEPPED if name != "fast"])
def test_presets_of_few_worlds_draw_starts_in_proportion_to_their_epochs(name: str):
    """Also where the user makes the epochs longer."""
    cfg = PRESETS[name]()
    steps = cfg.method.loop.steps_per_epoch
    assert cfg.method.pool_size(cfg.num_envs) == epoch_pool(cfg.num_envs, steps)
    longer = dataclasses.replace(cfg.method.loop, steps_per_epoch=10 * steps)
    assert dataclasses.replace(cfg.method, loop=longer).pool_size(1) == 4 * 10 * steps // 25


def test_presets_take_changes_and_refuse_other_names():
    assert preset("serl", seed=7).seed == 7
    with pytest.raises(KeyError, match=r"Unknown preset 'hilserl'\. Did you mean 'hil_serl'\?"):
        preset("hilserl")
    with pytest.raises(KeyError, match="Unknown field of a run 'num_env'. Did you mean 'num_envs'"):
        preset("laptop", num_env=4)


def test_an_agent_is_named_by_its_demonstrations():
    cfg = PRESETS["laptop"]()
    none = dataclasses.replace(cfg.method.demos, count=0)
    file = dataclasses.replace(none, file=Path("x.npz"))
    names = [with_method(cfg, demos=d).agent_name for d in (cfg.method.demos, none, file)]
    assert names == ["rlpd", "sac", "rlpd"]


@pytest.mark.parametrize(
    ("changes", "loop", "message"),
    [
        ({"num_envs": 0}, {}, "num_envs 0, allowed: at least 1"),
        ({}, {"demo_fraction": 1.5}, "demo_fraction 1.5, allowed: 0 to 1"),
        ({}, {"batch_size": 1}, "batch_size 1, allowed: at least 2"),
        ({}, {"steps_per_epoch": 0}, "loop.steps_per_epoch 0, allowed: at least 1"),
        # The preset sums four rewards: four rows and what followed them.
        ({"num_envs": 64}, {"buffer_size": 319}, "buffer_size 319, allowed: at least 320"),
        ({}, {"updates_per_step": 0}, "updates_per_step 0, allowed: at least 1"),
        ({}, {"warmup_steps": -1}, "warmup_steps -1, allowed: at least 0"),
        ({}, {"pretrain_updates": -1}, "pretrain_updates -1, allowed: at least 0"),
        ({"total_updates": 0}, {}, "total_updates 0, allowed: at least 1"),
        ({"total_env_steps": 0}, {}, "total_env_steps 0, allowed: at least 1"),
    ],
)
def test_values_that_make_no_run_are_refused(changes: dict, loop: dict, message: str):
    cfg = PRESETS["laptop"]()
    cfg = with_method(cfg, loop=dataclasses.replace(cfg.method.loop, **loop))
    cfg = dataclasses.replace(cfg, **changes)
    with pytest.raises(ValueError, match=re.escape(message)):
        cfg.build_observer()


# -- memory ------------------------------------------------------------------------------------


def fake_state(num_envs: int, buffer_size: int, *, world: int = 1000, row: int = 100) -> TrainState:
    """Shapes as a run has them: `world` bytes per world and reset, `row` per transition."""
    rows = max(buffer_size // num_envs, 2)

    def array(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, "uint8")

    worlds = _Worlds(array(num_envs, world), array(min(256, 4 * num_envs), world))
    data = {"online": array(rows, num_envs, row)}
    return TrainState(array(50_000), worlds, data, None, None, None)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class _Worlds:
    worlds: Any
    pool: Any


def check(num_envs: int, buffer_size: int, *, available: int) -> int:
    """Whether a run of that size fits."""
    loop = LoopConfig(buffer_size=buffer_size, warmup_steps=100)
    method = OffPolicyConfig(loop=loop, demos=DemoConfig(count=0))
    worlds: Any = SimpleNamespace(task=SimpleNamespace(episode_steps=100))
    trainer = method.build(Observer(worlds), num_envs=num_envs)
    state = fake_state(num_envs, buffer_size)
    return check_memory(state, trainer.memory(state), available=available)


def options(text: str) -> list[tuple[int | None, int | None]]:
    """The (buffer size, num_envs) of each way out that the message offers."""
    found = []
    for way in text.split("Try ")[1].split(" or "):
        size = re.search(r"--loop\.buffer-size (\d+)", way)
        envs = re.search(r"--num-envs (\d+)", way)
        found.append((size and int(size[1]), envs and int(envs[1])))
    return found


@pytest.mark.parametrize(
    ("num_envs", "buffer_size", "available", "ways"),
    [
        (16, 200_000, 10_000_000, 1),  # only the buffer is large
        (5000, 100_000, 24_000_000, 2),  # either can shrink
        (50_000, 100_100, 30_000_000, 1),  # only the worlds are
        (20_000, 200_000, 15_000_000, 1),  # both have to
        (7, 99_999, 12_345_678, 1),
    ],
)
def test_what_does_not_fit_is_told_in_bytes_with_values_that_fit(
    num_envs: int, buffer_size: int, available: int, ways: int
):
    state = fake_state(num_envs, buffer_size)
    with pytest.raises(MemoryError) as caught:
        check(num_envs, buffer_size, available=available)
    text = str(caught.value)
    assert f"2 x {tree_bytes(state) / 1e9:.2f} GB" in text
    assert f"{available / 1e9:.2f} GB are free" in text
    assert len(options(text)) == ways
    for size, envs in options(text):
        envs, size = envs or num_envs, size or buffer_size
        check(envs, size, available=available)
        assert (envs, size) != (num_envs, buffer_size)


def test_a_network_that_does_not_fit_has_no_way_out():
    with pytest.raises(MemoryError, match="No size of buffer and worlds fits"):
        check(8, 1000, available=60_000)


def test_what_fits_is_counted():
    state = fake_state(16, 1000)
    assert check(16, 1000, available=2 * tree_bytes(state)) == tree_bytes(state)


def test_this_machine_has_memory():
    assert 100e6 < available_bytes() < 100e12


def test_a_run_keeps_to_the_robot_fit_that_it_began_with(tmp_path: Path) -> None:
    path = tmp_path / "robot_fit.json"
    save_robot_fit(path, make_fit())
    cfg = dataclasses.replace(TrainConfig(), robot_fit=path).pinned_fit()
    assert cfg.robot_fit_digest and cfg == from_json(TrainConfig, to_json(cfg)).pinned_fit()
    assert cfg.build_observer().env.scene.spec.robot.payload == 0.3
    save_robot_fit(path, make_fit(sim_dt=0.001))
    with pytest.raises(ValueError, match=r"has changed since the run began.*begin a new run"):
        cfg.pinned_fit()
    # Configs without one are written as they always were.
    assert "robot_fit" not in to_json(TrainConfig()) and TrainConfig().pinned_fit() == TrainConfig()


# -- a classifier in place of the task's reward ----------------------------------------------------


def save_tiny(path: Path, *, bias: float) -> None:
    """A classifier of franka/pick_cube that says the same of every picture."""
    spec = ClassifierSpec(
        task="franka/pick_cube",
        kind="binary",
        names=("none", "success"),
        cameras=("front",),
        size=32,
        encoder=EncoderConfig(features=2),
        frozen=None,
        hidden=2,
        thresholds=(0.5,),
    )
    net = SuccessNet(spec)
    shapes = jax.eval_shape(net.init, jax.random.key(0), net.blank())
    params = jax.tree.map(lambda x: np.full(x.shape, bias, np.float32), shapes)
    save_classifier(path, RewardClassifier(spec, params), note={})


def test_a_run_keeps_the_classifier_that_it_began_with(tmp_path: Path):
    path = tmp_path / "c.npz"
    save_tiny(path, bias=0.0)
    cameras = PixelConfig(cameras=("front", "wrist"), size=32)
    cfg = TrainConfig(reward=RewardConfig(classifier=path, threshold=0.9), pixels=cameras)
    pinned = cfg.pinned_classifier()
    assert len(pinned.reward.digest) == 64 and pinned.pinned_classifier() == pinned
    assert from_json(TrainConfig, to_json(pinned)) == pinned
    found = pinned._classifier()
    assert found is not None and found.thresholds == (0.9,)
    other = dataclasses.replace(pinned, task="franka/peg_insertion")
    with pytest.raises(ValueError, match="tells success of 'franka/pick_cube', got task"):
        other._classifier()
    path.unlink()
    save_tiny(path, bias=1.0)
    with pytest.raises(ValueError, match="has changed since the run began"):
        pinned._classifier()


def test_a_run_without_a_classifier_says_nothing_of_one():
    """So that configs from before read and write as they did."""
    assert not {"reward", "vice"} & {*to_json(TrainConfig()), *to_json(TrainConfig())["method"]}
