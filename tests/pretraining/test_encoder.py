"""Pretraining reads where things are off pictures: on a world whose picture says it plainly."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_env import ToyEnv

from mjx_serl.envs.observation import Observer
from mjx_serl.nets.encoders import EncoderConfig
from mjx_serl.pretraining.encoder import (
    Examples,
    PretrainConfig,
    collect_rounds,
    errors,
    reader_fit,
    reader_spec,
)
from mjx_serl.types import Obs
from scenes.contract.specs import ObsField, ObsSpec

SIZE = 32
CONFIG = PretrainConfig(
    rounds=1,
    episodes=4,
    updates=100,
    batch_size=32,
    encoder=EncoderConfig(name="small", features=16),
    hidden=16,
)


@dataclasses.dataclass(frozen=True, eq=False)
class ToyCameras:
    """A picture whose red is x[0] and whose green is x[1]."""

    config: SimpleNamespace = dataclasses.field(
        default_factory=lambda: SimpleNamespace(cameras=("front",), size=SIZE, stack=1, depth=0.0)
    )

    def observe(self, worlds: SimpleNamespace, look: tuple) -> Obs:
        color = jnp.clip(255 * worlds.obs["x"] / 2, 0, 255).astype(jnp.uint8)
        picture = jnp.zeros((color.shape[0], SIZE, SIZE, 3), jnp.uint8)
        return {"front": picture.at[..., :2].set(color[:, None, None])}


@dataclasses.dataclass(frozen=True, eq=False)
class ToyObserver(Observer):
    """Looks are nothing, x is privileged and observed."""

    traceable: bool = True  # pyright: ignore

    def looks(self, key: jax.Array, num: int) -> tuple:
        return ()

    def observe(self, worlds: Any, pictures: Obs) -> Obs:
        return worlds.obs | pictures


@pytest.fixture(scope="module")
def observer() -> ToyObserver:
    fields = (
        ObsField(name="x", shape=(2,), scale=4.0, privileged=True),
        ObsField(name="age", shape=(1,), scale=0.5),
    )
    return ToyObserver(ToyEnv(obs_spec=ObsSpec(fields=fields)), ToyCameras())


def test_it_learns_to_tell_what_the_picture_shows(observer: ToyObserver) -> None:
    spec = reader_spec(CONFIG, observer)
    assert spec.targets == (("x", 2, 4.0),)
    (data,) = collect_rounds(CONFIG, spec, observer, jax.random.key(0))
    assert data.targets.shape == (4 * 4 * 8, 2)  # three noises and random actions, 8 steps
    shown = data.pictures["front"][:, 0, 0, :2] / 255 * 2
    inside = np.asarray((data.targets * 4.0 >= 0).all(-1))
    np.testing.assert_allclose((data.targets * 4.0)[inside].clip(0, 2), shown[inside], atol=0.01)
    init, fit = reader_fit(CONFIG, spec)
    state = init(jax.random.key(1))
    before = errors(spec, state[0], data)["x"].mean()
    state, _ = fit(state, data, jax.random.key(2), CONFIG.updates)
    after = errors(spec, state[0], data)["x"].mean()
    assert after < 0.2 * before


def test_errors_are_distances_in_the_targets_unit(observer: ToyObserver) -> None:
    spec = reader_spec(CONFIG, observer)
    params = jax.tree.map(jnp.zeros_like, reader_fit(CONFIG, spec)[0](jax.random.key(0))[0])
    pictures = {"front": jnp.zeros((1, SIZE, SIZE, 3), jnp.uint8)}
    missed = errors(spec, params, Examples(pictures, jnp.array([[0.3, 0.4]])))
    np.testing.assert_allclose(missed["x"], [4.0 * 0.5], rtol=1e-6)


def test_without_cameras_or_privileged_entries_there_is_nothing_to_learn(
    observer: ToyObserver,
) -> None:
    with pytest.raises(ValueError, match="needs cameras"):
        reader_spec(CONFIG, Observer(ToyEnv()))
    with pytest.raises(ValueError, match="privileged"):
        reader_spec(CONFIG, ToyObserver(ToyEnv(), ToyCameras()))
