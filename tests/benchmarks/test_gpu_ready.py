"""The epoch of each kind of learner is lowered for CUDA, where there is none."""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import pytest
from tiny_bundle import shared_env
from two_joints import registered

from benchmarks.gpu_ready import cuda_module, on_gpu
from mjx_serl import config
from mjx_serl.config import TrainConfig
from mjx_serl.experiments import PRESETS


@pytest.fixture(scope="module")
def task() -> Iterator[str]:
    """The toy; all learners share its worlds, whose step is most of what is traced."""
    with registered(episode_steps=8) as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "make_env", shared_env)
        yield name


def small(preset: str, task: str) -> TrainConfig:
    """A preset in four worlds of the toy; where it wants a task by turns or cameras, of its own."""
    cfg = dataclasses.replace(PRESETS[preset](), num_envs=4)
    if cfg.pixels.cameras:
        few = dataclasses.replace(cfg.pixels, splats=100, cached=False)
        return dataclasses.replace(cfg, pixels=few)
    return cfg if preset == "reset_free" else dataclasses.replace(cfg, task=task)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "physics"),
    [
        ("laptop", "mjx"),
        *((name, "warp") for name in ("laptop", "qc_rlpd", "residual", "dsrl", "expo", "hybrid")),
        *((name, "warp") for name in ("qc", "bc", "hg_dagger", "ppo", "flow_ppo")),
        *((name, "warp") for name in ("vice", "reset_free")),
    ],
)
def test_an_epoch_is_what_a_gpu_can_run(preset, physics, task):
    cfg = on_gpu(small(preset, task), physics)
    found = cuda_module(cfg.build(cfg.build_observer()))
    assert found.faults == []
    assert found.donated > 10 and found.largest[0][0] > 1000
    assert 0 < found.fused_bytes <= found.unfused_bytes and found.state_bytes > 1000


def test_what_only_a_cpu_can_run_is_named(task):
    cfg = dataclasses.replace(small("laptop", task), physics="native")
    found = cuda_module(cfg.build(cfg.build_observer()))
    assert "unknown custom call: mjx_serl_step" in found.faults


@dataclasses.dataclass
class Careless:
    """What no trainer does."""

    epoch: Callable[[jax.Array], jax.Array]

    def state_shapes(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((3,), jnp.float32)


def test_callbacks_and_buffers_that_are_not_used_again_are_named():
    shapes = jax.ShapeDtypeStruct((3,), jnp.float32)
    asks = Careless(lambda x: jax.pure_callback(abs, shapes, x))
    assert cuda_module(asks).faults == ["calls back into Python"]
    with pytest.warns(UserWarning, match="donated buffers were not usable"):
        grows = cuda_module(Careless(lambda x: jnp.tile(x, 2)))
    assert grows.faults == ["1 of 1 buffers are not used again"]
