"""A number that no command can use is refused in one line, before a run or a scene is built."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.governor import GovernorConfig
from benchmarks.options import read_options
from mjx_serl.envs.observation import PixelConfig
from mjx_serl.pretraining.pretrain_run import PretrainRun
from mjx_serl.pretraining.pretrain_run import run as pretrain
from mjx_serl.run.demonstrations import record_scripted
from mjx_serl.run.evaluation import evaluate_run
from mjx_serl.run.simulated_arm import build_world
from mjx_serl.viewing.play import build_playable
from robot_bridge.deploy.deployment import DeployConfig
from robot_bridge.deploy.observe import observe
from robot_bridge.deploy.rig import RigConfig
from robot_bridge.deploy.serve import ServeOptions
from scenes.contract.command_line import BAD_INPUT
from splat_render.assets import bake, pick_pairs

NOWHERE = Path("no run is here")


def _evaluate(**changes: object) -> None:
    evaluate_run(NOWHERE, **({"episodes": 1, "seed": 0} | changes))


def _play(**changes: object) -> None:
    build_playable(None, NOWHERE, None, **({"size": 64} | changes))


def _record(**changes: object) -> None:
    usual = {"episodes": 1, "noise": 0.0, "seed": 0, "pixels": PixelConfig()}
    record_scripted("no/task", Path("a.npz"), **(usual | changes))


def _simulated(**changes: object) -> None:
    build_world("no/task", None, **({"episodes": 1, "seed": 0} | changes))


def _pretrain(**changes: object) -> None:
    pretrain(PretrainRun(out=NOWHERE, task="no/task", **changes))


EPISODES, SEED = "1 to 100000", "0 to 4294967295"
REFUSED = [
    *((ask, "episodes", n, EPISODES) for ask in (_evaluate, _play, _record, _simulated) for n in
      (0, -1, 10**9)),
    (_evaluate, "episodes", math.nan, EPISODES),
    (DeployConfig, "episodes", 0, EPISODES),
    (DeployConfig, "episodes", 10**9, EPISODES),
    (DeployConfig, "seconds", math.nan, "above 0, at most 3600"),
    (DeployConfig, "policy_timeout", 0.0, "above 0, at most 60"),
    *((ask, "seed", n, SEED) for ask in (_evaluate, _record, _simulated) for n in (-1, 2**32)),
    (_pretrain, "seed", 2**32 - 1, "0 to 4294967294"),
    (_record, "noise", math.nan, "at least 0"),
    (_play, "size", 0, "1 to 4096"),
    (lambda **n: observe("127.0.0.1:1", **n), "rate", 0.0, "above 0, at most 1000"),
    (lambda **n: observe("127.0.0.1:1", **n), "seconds", math.nan, "above 0"),
    (RigConfig, "fovy", 180.0, "above 0, below 180"),
    (RigConfig, "facing", math.nan, "finite"),
    (RigConfig, "size", (0, 480), "1 to 16384"),
    (ServeOptions, "port", 70_000, "0 to 65535"),
]  # fmt: skip


@pytest.mark.parametrize(("ask", "name", "value", "allowed"), REFUSED)
def test_a_number_out_of_range_is_told_with_what_is_allowed(
    ask: Callable[..., None], name: str, value: float, allowed: str
) -> None:
    worst = value[0] if isinstance(value, tuple) else value
    with pytest.raises(ValueError, match=f"^{name} {worst}, allowed: .*{allowed}$"):
        ask(**{name: value})


def test_tools_refuse_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bake.main(["panda", "--wheel", "x", "--out", "x.npz", "--points", "0"]) == BAD_INPUT
    scan = ["x.ply", "--model", "x.xml", "--joints", "nan"]
    assert pick_pairs.main(scan) == BAD_INPUT
    monkeypatch.setattr("sys.argv", ["governor", "--repeats", "-1"])
    with pytest.raises(SystemExit, match=str(BAD_INPUT)):
        read_options(GovernorConfig, None)
    assert capsys.readouterr().err.splitlines() == [
        "error: points 0, allowed: 1 to 5000000",
        "error: joints nan, allowed: finite",
        "error: repeats -1, allowed: at least 1",
    ]
