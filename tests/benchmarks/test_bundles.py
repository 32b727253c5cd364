"""benchmarks.bundles: what is trained is deployed once; what could not be is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bundles, methods, methods_page
from benchmarks.methods import PACED, cell_name
from benchmarks.results import Recorder
from mjx_serl.experiments import PRESETS


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Pretend that `rlpd` becomes a run and `dsrl` does not; returns what was asked for."""
    asked: list[tuple[str, ...]] = []

    def train(cfg: methods.MethodsConfig, recorder: Recorder) -> None:
        assert recorder.question == "methods" and cfg.only == (PACED,)
        asked.append(cfg.methods)
        folder = methods.run_folder(cfg, PACED, "rlpd", cfg.seeds[0])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "summary.json").write_text(json.dumps({}))

    monkeypatch.setattr(bundles.methods, "run", train)
    monkeypatch.setattr(bundles, "find_bundle", lambda folder: folder)
    monkeypatch.setattr(bundles, "load_bundle", lambda folder: folder)
    return asked


def test_each_is_deployed_once_and_told_beside_the_simulator(
    trained: list, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    deployed: list[Path] = []

    def solved(run: Path, bundle: Any, *, episodes: int) -> tuple[int, int]:
        assert bundle == run and episodes == 50
        deployed.append(run)
        return 49, 48

    monkeypatch.setattr(bundles, "solved_by", solved)
    cfg = bundles.BundlesConfig(methods=("rlpd", "dsrl"), episodes=50, folder=tmp_path)
    recorder = Recorder("bundles")
    bundles.run(cfg, recorder)
    bundles.run(cfg, recorder)
    assert trained == [("rlpd", "dsrl")] * 2
    assert deployed == [tmp_path / "franka-pick_cube_paced-rlpd-s0"]
    fine, missing = recorder.results
    assert (fine.name, fine.value) == (cell_name(PACED, "rlpd", 0), 48.0)
    assert fine.params["simulator"] == 49 and missing.value is None
    lines = methods_page.page(recorder.results).splitlines()
    told = [line.split(" | ")[2:] for line in lines if line.startswith(("| `rlpd` ", "| `dsrl` "))]
    assert told[0][:2] == ["49 of 50", "48 of 50"]
    assert told[1][0].startswith("no finished run in ")


def test_what_is_deployed_names_presets_and_what_it_begins_with():
    for method in methods.DEPLOYED.values():
        first = method.args[0]
        assert first.removeprefix("--preset=") in PRESETS or first == "--method=offline"
        assert not method.over or method.over in methods.DEPLOYED
