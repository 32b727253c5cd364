"""Run by test_sharded.py in a process whose CPU is two devices: prints what it finds as JSON."""

import dataclasses
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mjx_serl.platform import prepare_platform

prepare_platform(cpu_devices=2)

import jax  # noqa: E402  once the platform is prepared
import jax.numpy as jnp  # noqa: E402
import mujoco  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402
from large_on_two import held_together, placed  # noqa: E402
from short_programs import random_by_call  # noqa: E402
from toy_env import ToyEnv  # noqa: E402

from benchmarks.collectives import collectives_of  # noqa: E402
from mjx_serl import devices  # noqa: E402
from mjx_serl.agents import objectives  # noqa: E402
from mjx_serl.agents.bc import BCConfig  # noqa: E402
from mjx_serl.agents.flow_ppo import FlowPPOConfig  # noqa: E402
from mjx_serl.agents.ppo import PPOConfig  # noqa: E402
from mjx_serl.agents.sac import SACConfig  # noqa: E402
from mjx_serl.data import normalize  # noqa: E402
from mjx_serl.envs.growth import Growth, by_all  # noqa: E402
from mjx_serl.envs.observation import Observer  # noqa: E402
from mjx_serl.envs.physics.native import NativePhysics  # noqa: E402
from mjx_serl.envs.vector import BadWorld  # noqa: E402
from mjx_serl.nets.velocity import MLPVelocityConfig  # noqa: E402
from mjx_serl.run.checkpoint import CheckpointStore  # noqa: E402
from mjx_serl.run.programs import compile_epoch, compile_eval  # noqa: E402
from mjx_serl.training.demonstrations import DemoConfig  # noqa: E402
from mjx_serl.training.off_policy import LoopConfig, OffPolicyConfig  # noqa: E402
from mjx_serl.training.on_policy import OnPolicyConfig, OnPolicyLoopConfig  # noqa: E402
from mjx_serl.training.on_policy_chunks import (  # noqa: E402
    ChunkLoopConfig,
    OnPolicyChunksConfig,
)
from mjx_serl.training.sharded import Sharded, _first_bad, over_devices  # noqa: E402
from mjx_serl.training.state import TrainState, tree_bytes  # noqa: E402
from mjx_serl.types import Batch, PyTree, RolloutBatch  # noqa: E402

WORLDS, EPISODES = 6, 5
OFF_POLICY = OffPolicyConfig(
    agent=SACConfig(hidden=(8, 8), utd_ratio=2),
    loop=LoopConfig(
        batch_size=16, updates_per_step=3, steps_per_epoch=5, warmup_steps=60, buffer_size=600
    ),
    demos=DemoConfig(count=3, noise=0.0),
)
ON_POLICY = OnPolicyConfig(
    # So far that a rollout's steps end early now and then, and the step size moves.
    agent=PPOConfig(hidden=(8,), lr=3e-2, stop_kl=0.05, lr_schedule="adaptive"),
    loop=OnPolicyLoopConfig(rollout_steps=12, passes=3, minibatches=4, normalize_steps=100, pool=4),
)

CHUNKS = OnPolicyChunksConfig(
    agent=FlowPPOConfig(net=MLPVelocityConfig(hidden=(8,)), horizon=3, steps=2, value_hidden=(8,)),
    loop=ChunkLoopConfig(
        pretrain_updates=10, batch_size=16, rollout_chunks=4, minibatches=2, pool=4
    ),
    demos=DemoConfig(count=2, noise=0.0),
)


def as_numpy(x: jax.Array) -> np.ndarray:
    is_key = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x)


def digest(tree: PyTree) -> str:
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        found.update(as_numpy(leaf).tobytes())
    return found.hexdigest()


def tells(sharded: Sharded, state: TrainState) -> list[str]:
    """What is said of a state of which one number differs between the devices."""
    copies = [jax.device_put(jnp.float32(i), device) for i, device in enumerate(jax.devices())]
    where = sharded.shardings.normalizer.count
    count = jax.make_array_from_single_device_arrays((), where, copies)
    return sharded.torn(state.replace(normalizer=state.normalizer.replace(count=count)))


def built(method: Any) -> Any:
    return method.build(Observer(ToyEnv()), num_envs=WORLDS)


def trained(whole: Any, *, check: bool) -> tuple[dict[str, Any], tuple[Any, Sharded, Any]]:
    """Two epochs, twice, and what is found of them; also what made them."""
    sharded = over_devices(whole, 2)
    assert isinstance(sharded, Sharded)
    shapes, key = sharded.state_shapes(), jax.random.key(0)
    epoch = compile_epoch(sharded, shapes)
    found: dict[str, Any] = {
        "collectives": [
            (x.kind, x.nbytes, x.times, len(x.loops)) for x in collectives_of(epoch.as_text())
        ]
    }
    state = sharded.init(key)
    if sharded.teach is not None:
        state = sharded.teach(state, key, lambda *_: None)
    again = jax.device_put(jax.tree.map(jnp.copy, state), sharded.shardings)
    found["torn"] = sharded.torn(state)
    found["tells"] = tells(sharded, state)
    if check:
        first = whole.init(key)
        found["starts_as_one"] = digest((first.agent, first.worlds.pool)) == digest(
            (state.agent, state.worlds.pool)
        )
    state, _ = epoch(state)
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(Path(folder))
        store.save(1, state, {})
        kept = digest(state)
        on_one, _, _ = store.restore(whole.state_shapes())
        resumed, _, _ = store.restore(shapes)
    found["kept"] = [kept == digest(on_one), kept == digest(resumed)]
    found["on_one_device"] = all(len(x.devices()) == 1 for x in jax.tree.leaves(on_one))
    state, metrics = epoch(state)
    found["torn"] += sharded.torn(state)
    found["metrics"] = {name: float(x) for name, x in metrics.items()}
    found["resumed"] = digest(epoch(resumed)[0]) == digest(state)
    found["repeated"] = digest(epoch(epoch(again)[0])[0]) == digest(state)
    if check:
        found |= counted(state, whole)
        found["plays_as_one"] = plays_as_one(sharded, whole, state)
    parts = {name: getattr(state.agent, name, None) for name in ("critic", "actor", "policy")}
    found["sizes"] = {name: tree_bytes(x.params) for name, x in parts.items() if x is not None}
    return found, (whole, sharded, epoch)


def counted(state: TrainState, whole: Any) -> dict[str, Any]:
    ring = state.data["online"]
    usable = np.asarray(ring.data.valid) & ~np.asarray(ring.data.truncated)
    return {
        "usable": [int(ring.usable), int(usable.sum())],
        "size": int(whole.sources["online"].buffer.size(jax.device_get(ring))),
        "actions_differ": bool(np.unique(np.asarray(ring.data.action[5, :, 0])).size == WORLDS),
    }


def plays_as_one(sharded: Sharded, whole: Any, state: TrainState) -> bool:
    observer = whole.vec_env.observer
    shared = compile_eval(sharded, observer, sharded.state_shapes(), episodes=EPISODES)
    alone = compile_eval(whole, observer, whole.state_shapes(), episodes=EPISODES)
    params, key = sharded.policy_params(state), jax.random.key(7)
    one, both = alone(params, key), shared(params, key)
    assert both.success.shape == (EPISODES,)
    return digest(one) == digest(both)


# -- what both devices put together is what one would have found ---------------------------------


def both(function: Callable[..., PyTree], rows: PyTree, same: PyTree = ()) -> list[PyTree]:
    """What a function of rows, and of what is the same everywhere, finds on each of two devices."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), (devices.AXIS,))
    lifted = lambda rows, same: jax.tree.map(lambda x: x[None], function(rows, same))  # noqa: E731
    shared = jax.shard_map(
        lifted, mesh=mesh, in_specs=(P(devices.AXIS), P()), out_specs=P(devices.AXIS),
        check_vma=False,
    )  # fmt: skip
    found = jax.device_get(jax.jit(shared)(rows, same))
    return [jax.tree.map(lambda x, i=i: x[i], found) for i in range(2)]


def off(function: Callable[..., PyTree], rows: PyTree, same: PyTree = ()) -> float:
    """By how much two devices are off one that has all rows, and off each other."""
    one = jax.device_get(jax.jit(function)(rows, same))
    differences = [
        np.max(np.abs(np.asarray(a, np.float64) - b), initial=0.0)
        for found in both(function, rows, same)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(one), strict=True)
    ]
    return float(np.max(differences))


def parity() -> dict[str, float]:
    rng, env = np.random.default_rng(0), ToyEnv()
    obs = {n: jnp.asarray(rng.normal(size=(16, *env.obs_spec[n].shape)), jnp.float32)
           for n in env.obs_spec.names}  # fmt: skip
    valid = jnp.asarray(rng.random(16) < 0.7)
    action = jnp.asarray(rng.uniform(-1, 1, (16, env.action_dim)), jnp.float32)
    zeros, yes = jnp.zeros(16), jnp.ones(16, bool)
    cloner = BCConfig(hidden=(8,), crop=0, dropout=0.0).build()
    clone = cloner.init(jax.random.key(1), env.obs_spec, env.action_spec)
    batch = Batch(obs=obs, action=action, reward=zeros, terminated=~yes, next_obs=obs, expert=yes)
    # Neither stopped nor clipped, so that a gradient's size shows.
    ppo = PPOConfig(hidden=(8,), lr_schedule="adaptive", stop_kl=None, clip_norm=None).build()
    policy = ppo.init(jax.random.key(2), env.obs_spec, env.action_spec)
    drawn = ppo.sample(policy, obs, action).extras
    drawn["log_prob"] += 0.1 * action[:, 1]
    rollout = RolloutBatch(
        obs=obs, extras=drawn, advantage=action[:, 0], returns=zeros + 1.0, valid=yes
    )
    numbers = jnp.asarray(rng.normal(size=16), jnp.float32)
    return {
        "statistics": off(
            lambda rows, state: normalize.update(state, *rows),
            (obs, valid),
            normalize.init(env.obs_spec),
        ),
        "cloned": off(
            lambda rows, state: cloner.update(state, rows, jax.random.key(3))[0].policy,
            batch,
            clone,
        ),
        "ppo": off(
            lambda rows, state: (lambda s, stop, _: (s.policy, s.lr, stop * 1))(
                *ppo.improve(state, rows)
            ),
            rollout,
            policy,
        ),
        "critic": critic_parity(env, batch),
        "total_advantage": float(
            np.abs(
                np.concatenate(both(lambda r, _: objectives.standardised(*r), (numbers, valid)))
                - objectives.standardised(numbers, valid)
            ).max()
        ),
    }


def critic_parity(env: ToyEnv, batch: Batch) -> float:
    """Of a critic that is fitted to rewards alone: every row ends its episode, nothing is drawn."""
    agent = SACConfig(hidden=(8,), critic_ensemble_size=2).build()
    state = agent.init(jax.random.key(4), env.obs_spec, env.action_spec)
    ended = batch.replace(terminated=jnp.ones(16, bool), reward=batch.action[:, 0])
    fit = lambda rows, state: agent.update(state, rows, jax.random.key(5))[0].critic  # noqa: E731
    return off(fit, ended, state)


def counts() -> dict[str, Any]:
    """What moves with the worlds of both, and the first bad world of both."""
    numbers = jnp.arange(8)

    def grown(mine: jax.Array, start: Growth) -> Growth:
        own = start.replace(tested=devices.once(start.tested) + jnp.sum(mine))
        return by_all(own, lambda all_of: all_of.replace(reach=all_of.tested * 1.0))

    zero = jnp.zeros((1, 2), jnp.int32)
    first, second = both(grown, numbers, Growth(jnp.zeros((1, 2)), zero + 3, zero))

    def seen(mine: jax.Array, _: tuple) -> BadWorld:
        has = jnp.any(mine == 6)
        held = jnp.where(has, jnp.float32(2.5), 9.0)
        return _first_bad(BadWorld(has, mine[2], {"carry": held.view(jnp.uint32)}, *[held] * 3))

    bad = both(seen, numbers)
    return {
        "growth": [float(first.reach[0, 0]), float(second.reach[0, 0])],
        "tested": [int(first.tested[0, 0]), int(second.tested[0, 0])],
        "bad": [[bool(x.seen), int(x.world), float(x.qpos)] for x in bad],
    }


def physics() -> float:
    """Two devices step the worlds that one steps: by how much they differ."""
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><joint name='j' axis='0 1 0'/><geom size='.1' pos='.3 0 0'/>"
        "</body></worldbody><actuator><motor joint='j'/></actuator></mujoco>"
    )
    native = NativePhysics(model)

    def play(ctrl: jax.Array, _: tuple) -> jax.Array:
        def one(ctrl: jax.Array) -> jax.Array:
            carry, _ = native.reset(jnp.zeros(1), ctrl)
            return native.step(carry, ctrl, 5)[1].qpos

        return jax.vmap(one)(ctrl)

    ctrl = jnp.linspace(-1, 1, 8)[:, None]
    found = np.concatenate(both(play, ctrl))
    return float(np.abs(found - np.asarray(jax.jit(partial(play, _=()))(ctrl))).max())


if __name__ == "__main__":
    assert jax.device_count() == 2 and dataclasses.is_dataclass(Sharded)
    with random_by_call():
        chunks, made = trained(built(CHUNKS), check=False)
        found = {
            "off_policy": trained(built(OFF_POLICY), check=True)[0],
            "on_policy": trained(built(ON_POLICY), check=False)[0],
            "chunks": chunks,
            "held_together": held_together(*made, digest),
            "placed": placed(built(ON_POLICY), digest),
            "parity": parity(),
            "counts": counts(),
            "physics": physics(),
        }
    sys.stdout.write(json.dumps(found))
