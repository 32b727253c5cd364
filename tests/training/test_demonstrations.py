"""Demonstrations with pictures for a run that sees features of them."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np

from mjx_serl.envs.observation import FEATURES
from mjx_serl.training.demonstrations import DemoConfig, demo_contract
from scenes.contract.demonstrations import write_demonstrations
from scenes.contract.specs import ActionSpec, ObsField, ObsSpec

STEPS, EPISODES = 50, 5  # more rows than are encoded at once
NUMBERS = ObsField(name="x", shape=(2,))
PICTURE = ObsField(name="front", shape=(4, 4, 3), dtype="uint8")
ACTION = ActionSpec(mode="ee_delta", names=("x", "gripper"), scale=(0.02, 1.0), rate=10.0)


def brightness(pictures: dict[str, Any]) -> Any:
    """A frozen encoder of one number."""
    return jnp.mean(pictures["front"].astype(jnp.float32), axis=(1, 2, 3))[:, None]


@dataclasses.dataclass(frozen=True)
class Cameras:
    encoder: Any
    config: Any = dataclasses.field(default_factory=lambda: SimpleNamespace(cameras=("front",)))


@dataclasses.dataclass(frozen=True)
class Seen:
    cameras: Cameras
    env: Any = dataclasses.field(
        default_factory=lambda: SimpleNamespace(
            name="a/b",
            action_spec=ACTION,
            task=SimpleNamespace(episode_steps=STEPS),
            told=None,
        )
    )

    @property
    def stored_spec(self) -> ObsSpec:
        features = ObsField(name=FEATURES, shape=(1,))
        return ObsSpec(fields=(NUMBERS, features if self.cameras.encoder else PICTURE))


def test_pictures_of_a_file_become_the_features_that_a_run_sees(tmp_path: Path) -> None:
    observer: Any = Seen(Cameras(brightness))
    lead, rng = (STEPS, EPISODES), np.random.default_rng(0)
    no, last = np.zeros(lead, bool), np.arange(STEPS)[:, None] == STEPS - 1
    pictures = rng.integers(0, 256, (*lead, 4, 4, 3), np.uint8)
    arrays = {
        "obs/front": pictures,
        "obs/x": rng.normal(size=(*lead, 2)).astype(np.float32),
        "action": np.zeros((*lead, 2), np.float32),
        "reward": (last & ~no).astype(np.float32),
        "terminated": last & ~no,
        "truncated": no,
        "valid": ~no,
        "expert": ~no,
    }
    contract = demo_contract(dataclasses.replace(observer, cameras=Cameras(None)))
    write_demonstrations(tmp_path / "d.npz", arrays, contract)
    demos = DemoConfig(file=tmp_path / "d.npz").build(observer)
    assert demos is not None
    rows: Any = demos.shapes()
    assert rows.obs.keys() == {"x", FEATURES}
    np.testing.assert_array_equal(rows.obs["x"], arrays["obs/x"])
    wanted = pictures.reshape(*lead, -1).mean(-1, keepdims=True)
    np.testing.assert_allclose(rows.obs[FEATURES], wanted, rtol=1e-5)
