"""A bundle of schema 1, written by the code before actions could turn, still runs."""

import json
from pathlib import Path

import numpy as np
import pytest

from mjx_serl.run.simulated_arm import build_world
from robot_bridge.deploy.deployment import DeployConfig, Deployment, Talk
from robot_bridge.deploy.rigs import sim_rig
from robot_bridge.policy.bundle import Bundle, load_bundle
from scenes.contract.manifest import SCHEMA
from scenes.contract.serialize import digest

FOLDER = Path(__file__).parents[2] / "data" / "bundle_schema1"


@pytest.fixture(scope="module")
def old() -> Bundle:
    return load_bundle(FOLDER)


def test_it_loads_as_it_is(old: Bundle) -> None:
    raw = json.loads((FOLDER / "manifest.json").read_bytes())
    assert raw["schema"] == 1 and old.manifest.schema == SCHEMA == 2
    assert digest(old.contract) == raw["contract_digest"]
    action = old.contract.action
    assert (action.frame, action.turn_limit, action.turns) == ("world", None, False)


def test_its_golden_actions_are_reproduced(old: Bundle) -> None:
    assert old.golden_error < 1e-5
    with np.load(FOLDER / "golden.npz") as file:
        golden = {name: file[name] for name in file.files}
    for i, wanted in enumerate(golden["actions"]):
        obs = {name: golden[f"obs/{name}"][i] for name in old.contract.obs.names}
        np.testing.assert_allclose(old.policy.act(obs), wanted, atol=1e-5)


def test_it_deploys_on_the_simulated_arm(old: Bundle) -> None:
    """Contract digests must still agree, or the world is refused."""
    world = build_world(old.manifest.task, old.contract, seed=0, episodes=1)
    config, talk = DeployConfig(seconds=0.5), Talk(lambda line: None, lambda line: "")
    (report,) = Deployment(config, old, sim_rig(world, old.contract), talk).run()
    assert report.ending == "time" and report.ticks >= 50
    assert "policy_error" not in report.reasons and "observation_bad" not in report.reasons
