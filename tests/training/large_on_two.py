"""What on_two_devices.py finds of parameters held together, and of worlds apart from the policy."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.collectives import collectives_of
from mjx_serl.run.checkpoint import CheckpointStore
from mjx_serl.run.programs import compile_epoch, compile_eval
from mjx_serl.training.fsdp import FSDPConfig
from mjx_serl.training.placed import over_placement
from mjx_serl.training.placement import PlacementConfig
from mjx_serl.training.sharded import Sharded, over_devices
from mjx_serl.training.state import device_bytes, tree_bytes
from mjx_serl.types import PyTree

EPISODES = 5
Digest = Callable[[PyTree], str]


def furthest(some: PyTree, others: PyTree) -> float:
    """By how much numbers of two pytrees differ at most."""
    pairs = zip(jax.tree.leaves(some), jax.tree.leaves(others), strict=True)
    differ = [np.abs(np.asarray(a, np.float64) - np.asarray(b)).max(initial=0.0) for a, b in pairs]
    return float(np.max(differ))


def held_together(whole: Any, plain: Sharded, plain_epoch: Any, digest: Digest) -> dict[str, Any]:
    """An epoch of two devices that hold parameters together, beside one of two that do not."""
    split = over_devices(whole, 2, FSDPConfig(enable=True, min_size_mbytes=0.0))
    assert isinstance(split, Sharded)
    key, shapes = jax.random.key(0), split.state_shapes()
    epoch = compile_epoch(split, shapes)
    state, alone = split.init(key), plain.init(key)
    trained = state.agent.policy
    cut = [x for x in jax.tree.leaves(trained) if not x.is_fully_replicated]
    params = [x for x in jax.tree.leaves(trained.params) if not x.is_fully_replicated]
    found: dict[str, Any] = {
        "starts_as_plain": digest(state.agent) == digest(alone.agent),
        # Of parameters and moments, and of parameters alone.
        "shares": sorted({x.addressable_shards[0].data.nbytes / x.nbytes for x in cut}),
        "cut": [tree_bytes(cut), tree_bytes(trained), device_bytes(trained)],
        "params": [tree_bytes(params), tree_bytes(trained.params)],
        "inside": [
            (x.kind, x.nbytes, x.times) for x in collectives_of(epoch.as_text()) if x.times > 1
        ],
    }
    assert split.teach is not None
    taught = split.teach(split.init(key), key, lambda *_: None)
    places = zip(jax.tree.leaves(taught), jax.tree.leaves(split.shardings), strict=True)
    found["taught"] = {
        "moved": furthest(taught.agent.policy.params, state.agent.policy.params),
        "in_place": all(x.sharding.is_equivalent_to(where, x.ndim) for x, where in places),
    }
    (alone, _), (state, _) = plain_epoch(alone), epoch(state)
    found["off"] = furthest(alone.agent, state.agent)
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(Path(folder))
        store.save(1, state, {})
        kept = [store.restore(like)[0] for like in (whole.state_shapes(), plain.state_shapes())]
        resumed = store.restore(shapes)[0]
    found["kept"] = [digest(x) == digest(state) for x in (*kept, resumed)]
    observer = whole.vec_env.observer
    play = compile_eval(split, observer, shapes, episodes=EPISODES)
    on_one = compile_eval(whole, observer, whole.state_shapes(), episodes=EPISODES)
    one = on_one(split.policy_params(state), jax.random.key(7))
    found["plays_as_one"] = digest(play(split.spread_params(state), jax.random.key(7))) == digest(
        one
    )
    found["resumed"] = digest(epoch(resumed)[0]) == digest(epoch(state)[0])
    return found


def placed(whole: Any, digest: Digest) -> dict[str, Any]:
    """Two epochs of worlds on one device and the policy on the other, beside those of one alone."""
    apart = over_placement(whole, PlacementConfig(env="0", actor="1"), 2)
    key, shapes, alone = (
        jax.random.key(0),
        apart.state_shapes(),
        compile_epoch(whole, whole.state_shapes()),
    )
    state, metrics = apart.epoch(apart.init(key))
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(Path(folder))
        store.save(1, state, {})
        one, resumed = store.restore(whole.state_shapes())[0], store.restore(shapes)[0]
    places = zip(jax.tree.leaves(state), jax.tree.leaves(shapes), strict=True)
    found: dict[str, Any] = {
        "in_place": all(x.sharding == like.sharding for x, like in places),
        "kept": digest(one) == digest(state),
    }
    first, told = alone(whole.init(key))
    found["differ"] = [furthest(_numbers(first), _numbers(state)), _differ(told, metrics)]
    found["names"] = sorted(told) == sorted(metrics)
    after, _ = apart.epoch(state)
    found["resumed"] = digest(apart.epoch(resumed)[0]) == digest(after)
    again = apart.epoch(apart.epoch(apart.init(key))[0])[0]
    found["repeated"] = digest(again) == digest(after)
    second, _ = alone(first)
    found["differ"].append(furthest(_numbers(second), _numbers(after)))
    return found


def _numbers(tree: PyTree) -> PyTree:
    def of(x: jax.Array) -> jax.Array:
        is_key = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(x) if is_key else x

    return jax.tree.map(of, tree)


def _differ(some: dict[str, jax.Array], others: dict[str, jax.Array]) -> float:
    return max(abs(float(some[name]) - float(others[name])) for name in some)
