"""Checkpoints in openpi's layout: round trips, and a line for each leaf that does not fit."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from specs_of import action_spec_of

from mjx_serl.agents.flow_ppo import FlowPPOConfig
from mjx_serl.nets.velocity_vla import VLAVelocityConfig
from mjx_serl.nets.vla.config import SIZES, VLAConfig
from mjx_serl.nets.vla.normalization import NormStats, load_norm_stats
from mjx_serl.nets.vla.parameters import leaves
from mjx_serl.run.initial import load_initial, with_initial
from mjx_serl.run.openpi_checkpoint import LICENCE, load_openpi, save_openpi
from mjx_serl.training.one_agent import OneAgent
from mjx_serl.training.state import TrainState
from scenes.contract.errors import InputError
from scenes.contract.specs import ObsField, ObsSpec

TINY = dataclasses.replace(SIZES["tiny"], depth=1, vocabulary=300)


def numbered(config: VLAConfig) -> dict[str, np.ndarray]:
    """Every leaf by its path, each with numbers of its own."""
    return {
        path: np.full(leaf.shape, i, np.float32) + np.arange(leaf.shape[-1], dtype=np.float32) / 1e3
        for i, (path, leaf) in enumerate(leaves(config).items())
    }


def write(folder: Path, flat: dict[str, np.ndarray], *, under: str = "") -> None:
    """Write leaves, each under a name as `under` where it is given."""
    save_openpi(folder, unflatten_dict({path + under: x for path, x in flat.items()}, sep="/"))


def read(folder: Path, config: VLAConfig) -> dict[str, Any]:
    """Read them back, by path."""
    return flatten_dict(load_openpi(folder, config, tell=lambda line: None), sep="/")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of `TINY` with statistics."""
    folder = tmp_path_factory.mktemp("openpi") / "1000"
    stats = {"state": NormStats(np.zeros(7), np.ones(7))}
    params = unflatten_dict(numbered(TINY), sep="/")
    save_openpi(folder, jax.device_put(params), norm_stats={"arm": stats})
    return folder


def test_what_is_written_is_read(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = load_openpi(saved, TINY)
    jax.tree.map(np.testing.assert_array_equal, params, unflatten_dict(numbered(TINY), sep="/"))
    assert LICENCE in capsys.readouterr().err
    assert load_norm_stats(saved / "assets" / "arm")["state"].std.tolist() == [1.0] * 7
    assert read(saved / "params", TINY).keys() == leaves(TINY).keys()
    with pytest.raises(InputError, match="is there already"):
        save_openpi(saved, params)


def test_leaves_of_openpis_training_lie_under_value(tmp_path: Path) -> None:
    """Half precision comes back as float32."""
    flat = {path: x.astype(np.float16) for path, x in numbered(TINY).items()}
    write(tmp_path / "1", flat, under="/value")
    got = read(tmp_path / "1", TINY)
    assert got.keys() == flat.keys()
    for path, x in got.items():
        assert x.dtype == np.float32
        np.testing.assert_array_equal(x, flat[path].astype(np.float32))


def test_each_leaf_that_does_not_fit_is_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_openpi(saved, dataclasses.replace(TINY, pi05=False, action_dim=6))
    told = str(caught.value)
    assert "it is a pi0.5, wanted is a pi0" in told
    for line in (
        "action_in_proj/kernel is [7, 64], wanted [6, 64]",
        "missing: PaliGemma/llm/final_norm_1/scale [64]",
        "more",
    ):
        assert line in told, told
    flat = numbered(TINY)
    flat["PaliGemma/llm/layers/attn/q_einsum/lora_a"] = flat.pop("action_out_proj/bias")
    write(tmp_path / "1", flat)
    with pytest.raises(InputError) as caught:
        load_openpi(tmp_path / "1", TINY)
    told = str(caught.value)
    assert "2 differences): it has LoRA's factors" in told
    assert "not known: PaliGemma/llm/layers/attn/q_einsum/lora_a [7]" in told
    assert "missing: action_out_proj/bias [7]" in told


def test_what_is_no_checkpoint(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No openpi checkpoint in"):
        load_openpi(tmp_path, TINY)
    with pytest.raises(InputError, match="not on this machine: download it"):
        load_openpi(Path("gs://openpi-assets/checkpoints/pi0_base"), TINY)
    (tmp_path / "params").mkdir()
    with pytest.raises(InputError, match="is no checkpoint of openpi"):
        load_openpi(tmp_path, TINY)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(InputError, match="PyTorch port"):
        load_openpi(tmp_path, TINY)


def before(agent: Any) -> TrainState:
    """A run's state of which the agent alone matters, and a normaliser of one number."""
    names = [field.name for field in dataclasses.fields(TrainState)]
    rest = dict.fromkeys(names) | {"normalizer": jnp.float32(3.0)}
    return TrainState(**rest | {"agent": agent})


def test_a_run_begins_with_a_checkpoint_of_openpi(tmp_path: Path) -> None:
    """Its net is that of the checkpoint, all else as it was drawn."""
    net = VLAVelocityConfig(predicted=5)
    spec = ObsSpec(
        fields=(
            ObsField(name="front", shape=(32, 32, 3), dtype="uint8"),
            ObsField(name="arm", shape=(3,)),
        )
    )
    config = net.build(spec, horizon=5, dim=4).config
    write(tmp_path / "1", numbered(config))
    agent = FlowPPOConfig(net=net, value_hidden=(8,)).build()
    shapes = jax.eval_shape(lambda: agent.init(jax.random.key(0), spec, action_spec_of(4)))
    fresh = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    state = before(fresh)
    trainer = OneAgent(agent, None)
    params = load_initial(tmp_path / "1", trainer, jax.eval_shape(lambda: state))
    begun = with_initial(state, params, trainer)
    got = flatten_dict(begun.agent.policy.params["net"], sep="/")
    for path, x in numbered(config).items():
        np.testing.assert_array_equal(got[path], x)
    # Imitation goes on from there.
    student = flatten_dict(begun.agent.student.params, sep="/")
    np.testing.assert_array_equal(student["state_proj/bias"], got["state_proj/bias"])
    drawn, kept = (x.agent.policy.params["critic"] for x in (state, begun))
    jax.tree.map(np.testing.assert_array_equal, drawn, kept)
    assert begun.normalizer == 3.0
    other = FlowPPOConfig(value_hidden=(8,)).build()
    shapes = jax.eval_shape(lambda: before(other.init(jax.random.key(0), spec, action_spec_of(4))))
    with pytest.raises(InputError, match="allowed: where the agent's net is one of openpi's"):
        load_initial(tmp_path / "1", OneAgent(other, None), shapes)
