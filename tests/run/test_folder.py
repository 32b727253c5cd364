"""Run folders: names, configs that round-trip or say why not, metrics that survive a crash."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest

from mjx_serl.run.folder import RunFolder
from mjx_serl.run.summary import Summary, commit, install_seconds, versions, wilson_interval
from scenes.contract.serialize import from_json, to_json


@dataclass(frozen=True, kw_only=True)
class AdamLike:
    lr: float = 3e-4
    clip: float | None = None


@dataclass(frozen=True, kw_only=True)
class SacLike:
    gamma: float = 0.97
    hidden: tuple[int, ...] = (256, 256)
    optimizer: AdamLike = field(default_factory=AdamLike)


@dataclass(frozen=True, kw_only=True)
class BcLike:
    gamma: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ConfigLike:
    task: str
    mode: Literal["target", "measured"] = "target"
    agent: SacLike | BcLike = field(default_factory=SacLike)
    box: tuple[float, float] = (0.3, 0.5)
    demos: Path | None = None
    extra: AdamLike | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    limit: float = math.inf
    layers: tuple[tuple[int, str], ...] = ()
    save: bool = True


FULL = ConfigLike(
    task="t",
    mode="measured",
    agent=BcLike(gamma=0.5),
    box=(1.0, 2.0),
    demos=Path("a/b"),
    extra=AdamLike(clip=1.0),
    weights={"x": 0.1},
    limit=-math.inf,
    layers=((1, "a"), (2, "b")),
    save=False,
)


@pytest.mark.parametrize("config", [ConfigLike(task="t"), FULL])
def test_config_round_trip(tmp_path, config):
    folder = RunFolder.create(tmp_path, task="t", agent="a", seed=0)
    folder.write_config(config)
    assert RunFolder.open(folder.path).read_config(ConfigLike) == config
    json.loads((folder.path / "config.json").read_text(), parse_constant=pytest.fail)


def changed(**changes):
    return {**to_json(ConfigLike(task="t")), **changes}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed(taks="x"), "Unknown field of ConfigLike 'taks'. Did you mean 'task'?"),
        (changed(mode="x"), "'mode': got \"x\", allowed: 'target' | 'measured'"),
        (changed(save=1), "'save': got 1, allowed: bool"),
        (changed(task=None), "'task': got null, allowed: str"),
        (changed(box=[1.0]), "'box': got [1.0], allowed: a list of 2"),
        (changed(box=[1.0, "a"]), "'box[1]': got \"a\", allowed: float"),
        (changed(extra={"lr": True, "clip": None}), "'extra.lr': got true, allowed: float"),
        (changed(extra={"lr": 1}), "Missing field of extra: clip"),
        (changed(demos=3), "'demos': got 3, allowed: Path | null"),
        (changed(agent={"type": "Sac"}), "Unknown type of agent 'Sac'. Did you mean 'SacLike'?"),
        (changed(agent={"type": "BcLike", "gama": 1}), "Unknown field of agent 'gama'. Did you"),
        (changed(weights={"x": "y"}), "'weights.x': got \"y\", allowed: float"),
        ({"task": "t"}, "Missing field of ConfigLike: mode, agent, box"),
        ([], "'': got [], allowed: the fields of ConfigLike"),
    ],
)
def test_bad_configs_say_what_and_what_is_allowed(data, message):
    with pytest.raises(ValueError) as caught:
        from_json(ConfigLike, data)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_missing_fields_may_take_defaults_but_not_required_ones():
    assert from_json(ConfigLike, {"task": "t"}, allow_missing=True) == ConfigLike(task="t")
    with pytest.raises(ValueError, match="Missing field of ConfigLike: task"):
        from_json(ConfigLike, {}, allow_missing=True)


def test_config_holds_plain_values_only():
    with pytest.raises(TypeError, match="plain values, got <object"):
        to_json(replace(FULL, weights={"x": object()}))


def test_names_count_up_and_nothing_is_overwritten(tmp_path):
    names = [
        RunFolder.create(tmp_path / "runs", task="franka/pick_cube", agent="rlpd", seed=s).path.name
        for s in (0, 0, 1)
    ]
    assert names == [
        "franka-pick_cube-rlpd-s0-1",
        "franka-pick_cube-rlpd-s0-2",
        "franka-pick_cube-rlpd-s1-1",
    ]
    mine = RunFolder.create(tmp_path, task="t", agent="a", seed=0, name="mine")
    (mine.path / "keep").write_text("x")
    with pytest.raises(FileExistsError, match=r"never overwritten.*--resume .*mine.*--run\.name"):
        RunFolder.create(tmp_path, task="t", agent="a", seed=0, name="mine")
    assert (mine.path / "keep").read_text() == "x"


@pytest.mark.parametrize("name", ["", "..", "a/b", "/abs"])
def test_names_are_plain(tmp_path, name):
    with pytest.raises(ValueError, match="plain folder name"):
        RunFolder.create(tmp_path, task="t", agent="a", seed=0, name=name)


def test_too_little_disk_is_said_before_anything_is_made(tmp_path):
    with pytest.raises(OSError, match=r"needs 1000000000000 MB .* MB are free. Hint"):
        RunFolder.create(tmp_path, task="t", agent="a", seed=0, need_bytes=10**18)
    assert not list(tmp_path.iterdir())


def test_opening_a_run_that_is_not_there_names_the_nearest(tmp_path):
    RunFolder.create(tmp_path, task="pick", agent="a", seed=0).write_config(AdamLike())
    with pytest.raises(FileNotFoundError, match=r"does not exist. Did you mean: pick-a-s0-1"):
        RunFolder.open(tmp_path / "pick-a-s0-2")
    (tmp_path / "bare").mkdir()
    with pytest.raises(FileNotFoundError, match=r"has no config.json"):
        RunFolder.open(tmp_path / "bare")


def test_metrics_survive_a_crash_and_a_resume_drops_what_it_repeats(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.read_metrics() == []
    for epoch in range(1, 6):
        folder.append_metrics({"kind": "epoch", "epoch": epoch, "loss": math.nan})
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"kind": "epoch", "ep')
    assert [row["epoch"] for row in folder.read_metrics()] == [1, 2, 3, 4, 5]
    folder.append_metrics({"kind": "final", "epoch": 3})
    folder.truncate_after(3)
    folder.append_metrics({"kind": "epoch", "epoch": 4, "loss": 1.0})
    assert [row["epoch"] for row in folder.read_metrics()] == [1, 2, 3, 4]
    assert folder.read_metrics()[0]["loss"] is None
    assert all(json.loads(line) for line in path.read_text().splitlines())


def make_summary():
    return Summary(
        task="t",
        agent="a",
        seed=1,
        success_rate=0.97,
        success_ci95=wilson_interval(97, 100),
        episodes=100,
        wall_seconds=80.0,
        compile_seconds=5.0,
        env_steps=10,
        updates=20,
        device="cpu",
    )


def test_summary_round_trip_and_fields(tmp_path):
    folder, summary = RunFolder(tmp_path), make_summary()
    assert folder.read_summary() is None
    folder.write_summary(summary)
    assert folder.read_summary() == summary
    wanted = "task agent seed success_rate success_ci95 episodes wall_seconds install_seconds"
    wanted += " compile_seconds env_steps updates device versions commit"
    assert set(json.loads((tmp_path / "summary.json").read_text())) == set(wanted.split())
    assert {"python", "jax", "mujoco"} <= versions().keys()


def test_install_seconds(tmp_path):
    assert install_seconds(tmp_path) is None
    (tmp_path / "install.json").write_text('{"install_seconds": 12.5}')
    assert install_seconds(tmp_path) == 12.5
    (tmp_path / "install.json").write_text("[")
    assert install_seconds(tmp_path) is None


def test_commit_is_none_outside_a_checkout(tmp_path):
    assert commit(tmp_path) is None


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # (p + z2/2n -+ z sqrt(p(1-p)/n + z2/4n2)) / (1 + z2/n), z2 = 3.841459
        (0, 10, 0.0, 0.277533),
        (5, 10, 0.236593, 0.763407),
        (10, 10, 0.722467, 1.0),
        (95, 100, 0.888249, 0.978456),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_interval(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=2e-6)


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5)])
def test_wilson_interval_refuses(successes, n):
    with pytest.raises(ValueError, match="successes must lie in"):
        wilson_interval(successes, n)
