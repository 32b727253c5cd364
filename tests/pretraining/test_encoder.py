"""Pretraining reads where things are off pictures: on a world whose picture says it plainly."""

import dataclasses
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_env import ToyEnv

from mjx_serl.envs.observation import Observer
from mjx_serl.nets.encoders import EncoderConfig
from mjx_serl.nets.velocity_vla import VLAVelocityConfig
from mjx_serl.pretraining.encoder import (
    Examples,
    PretrainConfig,
    collect_rounds,
    errors,
    estimate,
    reader_fit,
    reader_spec,
)
from mjx_serl.pretraining.eyes import NET, eyes_fit, net_of, told
from mjx_serl.run.openpi_checkpoint import load_openpi, save_openpi
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
        default_factory=lambda: SimpleNamespace(
            cameras=("front",), size=SIZE, stack=1, depth=0.0, privileged=True
        )
    )

    def observe(self, worlds: SimpleNamespace, look: tuple) -> Obs:
        color = jnp.clip(255 * worlds.obs["x"] / 2, 0, 255).astype(jnp.uint8)
        picture = jnp.zeros((color.shape[0], SIZE, SIZE, 3), jnp.uint8)
        return {"front": picture.at[..., :2].set(color[:, None, None])}

    def fields(self) -> tuple[ObsField, ...]:
        return (ObsField(name="front", shape=(SIZE, SIZE, 3), dtype="uint8", scale=255.0),)


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
    before = errors(spec, partial(estimate, spec, state[0]), data)["x"].mean()
    state, _ = fit(state, data, jax.random.key(2), CONFIG.updates)
    after = errors(spec, partial(estimate, spec, state[0]), data)["x"].mean()
    assert after < 0.2 * before


def test_eyes_learn_to_tell_it_and_fit_the_net_that_imitates(
    observer: ToyObserver, tmp_path: Path
) -> None:
    spec = reader_spec(CONFIG, observer)
    (data,) = collect_rounds(
        dataclasses.replace(CONFIG, every=2), spec, observer, jax.random.key(0)
    )
    assert data.targets.shape == (4 * 4 * 4, 2) and data.words is None
    net = net_of(VLAVelocityConfig(), observer)
    # What is privileged is told and not read.
    assert net.vectors == observer.env.obs_spec.fields[1:]
    init, fit = eyes_fit(CONFIG, spec, net)
    state = init(jax.random.key(1))
    before = errors(spec, partial(told, net, state[0]), data)["x"].mean()
    state, _ = fit(state, data, jax.random.key(2), CONFIG.updates)
    after = errors(spec, jax.jit(partial(told, net, state[0])), data)["x"].mean()
    assert after < 0.3 * before
    save_openpi(tmp_path / "eyes", state[0][NET])
    again = load_openpi(tmp_path / "eyes", net.config, tell=lambda line: None)
    jax.tree.map(np.testing.assert_array_equal, again, state[0][NET])


def test_errors_are_distances_in_the_targets_unit(observer: ToyObserver) -> None:
    spec = reader_spec(CONFIG, observer)
    params = jax.tree.map(jnp.zeros_like, reader_fit(CONFIG, spec)[0](jax.random.key(0))[0])
    pictures = {"front": jnp.zeros((1, SIZE, SIZE, 3), jnp.uint8)}
    tell = partial(estimate, spec, params)
    missed = errors(spec, tell, Examples(pictures, jnp.array([[0.3, 0.4]])))
    np.testing.assert_allclose(missed["x"], [4.0 * 0.5], rtol=1e-6)


def test_without_cameras_or_privileged_entries_there_is_nothing_to_learn(
    observer: ToyObserver,
) -> None:
    with pytest.raises(ValueError, match="needs cameras"):
        reader_spec(CONFIG, Observer(ToyEnv()))
    with pytest.raises(ValueError, match="privileged"):
        reader_spec(CONFIG, ToyObserver(ToyEnv(), ToyCameras()))
