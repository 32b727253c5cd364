"""What can be held together or placed, and what is refused."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P
from toy_env import ToyEnv

from mjx_serl.agents.ppo import PPOConfig
from mjx_serl.config import TrainConfig
from mjx_serl.devices import AXIS
from mjx_serl.envs.observation import Observer
from mjx_serl.run.resume import allowed_changes
from mjx_serl.training.fsdp import FSDPConfig, said, split_specs
from mjx_serl.training.off_policy import OffPolicyConfig
from mjx_serl.training.on_policy import OnPolicyConfig, OnPolicyLoopConfig
from mjx_serl.training.placed import over_placement
from mjx_serl.training.placement import PlacementConfig, ranks
from mjx_serl.training.sharded import over_devices
from scenes.contract.errors import InputError

MIB = 2**20
TOYS = OnPolicyConfig(
    agent=PPOConfig(hidden=(8,)), loop=OnPolicyLoopConfig(rollout_steps=4, minibatches=2)
)


def shape(*sizes: int, dtype: type = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype)


def test_large_arrays_are_cut_never_along_a_first_axis() -> None:
    agent = {
        "kernel": shape(1024, 1024),
        "layers": shape(2, 2048, 1024),  # the larger of the last two
        "odd": shape(1023, 1023),
        "ensemble": shape(1024, 1023),  # its first axis may be members
        "small": shape(512, 512),
        "bias": shape(4 * MIB),
        "pixels": shape(4096, 4096, dtype=jnp.uint8),
    }
    cfg = FSDPConfig(enable=True)
    assert split_specs(agent, 4, cfg) == {
        "kernel": P(None, AXIS),
        "layers": P(None, AXIS, None),
        "odd": P(),
        "ensemble": P(),
        "small": P(),
        "bias": P(),
        "pixels": P(),
    }
    few = {name: agent[name] for name in ("kernel", "small")}
    assert said(few, 4, cfg).endswith(
        "4 of 5 MiB of the agent are split, each of 4 devices holds 2 MiB"
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [("all", (0, 1, 2, 3)), ("0-1,3", (0, 1, 3)), (" 2 ", (2,)), ("3, 0", (3, 0))],
)
def test_ranks_as_rlinf_says_them(text: str, found: tuple[int, ...]) -> None:
    assert ranks("env", text, 4) == found


@pytest.mark.parametrize("text", ["", "4", "0-4", "1,1", "2-1", "a", "0-1:0", "-1"])
def test_what_names_no_devices_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--placement.env .*allowed: "):
        ranks("env", text, 4)


@pytest.mark.parametrize(
    ("placement", "said"),
    [
        ({"env": "0"}, "actor '', allowed: both said"),
        ({"env": "0", "actor": "0", "pipeline_stage_num": 4}, "num-envs 6 .*a multiple of 4"),
    ],
)
def test_what_cannot_be_placed_is_refused(placement: dict, said: str) -> None:
    toys = TOYS.build(Observer(ToyEnv()), num_envs=6)
    with pytest.raises(InputError, match=said):
        over_placement(toys, PlacementConfig(**placement), 1)


def test_what_does_not_go_together_is_refused() -> None:
    toys = TOYS.build(Observer(ToyEnv()), num_envs=4)
    with pytest.raises(InputError, match="--fsdp with one device, allowed: --devices 2 or more"):
        over_devices(toys, 1, FSDPConfig(enable=True))
    assert over_devices(toys, 1, FSDPConfig()) is toys
    stored = OffPolicyConfig().build(Observer(ToyEnv()), num_envs=4)
    with pytest.raises(InputError, match="learns from stored rows, allowed: --method on_policy"):
        over_placement(stored, PlacementConfig(env="0", actor="0"), 1)
    both = {"fsdp": FSDPConfig(enable=True), "placement": PlacementConfig(env="0", actor="0")}
    with pytest.raises(InputError, match="--placement with --fsdp"):
        TrainConfig(**both).check()


def test_a_resumed_run_may_lie_elsewhere() -> None:
    apart = TrainConfig(placement=PlacementConfig(env="0", actor="1"), devices=2)
    together = TrainConfig(fsdp=FSDPConfig(enable=True), devices=2)
    assert {x.name for x in allowed_changes(apart, together)} == {
        "fsdp.enable",
        "fsdp.min_size_mbytes",
        "placement.env",
        "placement.rollout",
        "placement.actor",
        "placement.pipeline_stage_num",
    }
