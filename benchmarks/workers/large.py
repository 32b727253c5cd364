"""What a process of several devices finds of large policies: its facts answer one question.

Params: devices, ask, and what the question wants. "update": one gradient step of a small pi0 under
PPO, with parameters on every device and held together: bytes, what passes, by how much they differ.
"epoch": the same of an epoch of a `preset` with so many `worlds`. "apart": epochs with worlds and
policy apart, beside those of one device. "overlap": seconds of epochs in which choosing and
stepping take `milliseconds` each in which this machine has nothing to do, by groups of worlds.
"sizes": bytes of openpi's pi0 under PPO on each of `devices`, none of which is made.
"""

import dataclasses
import time
from collections import Counter
from typing import Any

from benchmarks.collectives import collectives_of
from benchmarks.worker import Job, Params, serve
from benchmarks.workers.platform import prepare

_ROWS = 4  # of an update on each device
_STEPS = 12  # of a rollout in "overlap"
_WORLDS = 8
_KINDS = ("rollout", "env")


def start(params: Params) -> Job:
    """Answer the question."""
    prepare(cpu_devices=params["devices"])
    return Job(lambda: 0.0, _ASK[params["ask"]](params))


def _update(params: Params) -> Params:
    import jax
    from jax.sharding import Mesh
    from jax.sharding import PartitionSpec as P

    from mjx_serl import devices
    from mjx_serl.training import fsdp

    among = params["devices"]
    agent, state, rows = _pi0(among)
    mesh = Mesh(jax.devices()[:among], (devices.AXIS,))
    cfg = fsdp.FSDPConfig(enable=True, min_size_mbytes=params["min_size_mbytes"])
    split = fsdp.split_specs(jax.eval_shape(lambda: state), among, cfg)
    found: Params = {"note": fsdp.said(state, among, cfg)}
    after = {}
    for name, specs in (("replicated", P()), ("fsdp", split)):

        def on_one(state: Any, rows: Any, *, specs: Any = specs, name: str = name) -> Any:
            held = fsdp.as_split(state, specs) if name == "fsdp" else state
            stepped, _, told = agent.improve(held, rows)
            return fsdp.as_parts(stepped), devices.mean(told["actor/loss"])

        step = jax.shard_map(
            on_one,
            mesh=mesh,
            in_specs=(specs, P(devices.AXIS)),
            out_specs=(specs, P()),
            check_vma=False,
        )
        compiled = jax.jit(step).lower(state, rows).compile()
        after[name] = jax.device_get(jax.jit(step)(state, rows)[0])
        found[name] = _told(compiled)
    return found | {"differ": _furthest(after["replicated"], after["fsdp"])}


def _sizes(params: Params) -> Params:
    import jax

    from mjx_serl.training import fsdp

    agent, obs, action = _policy("full")
    state = jax.eval_shape(lambda: agent.taught(agent.init(jax.random.key(0), obs, action)))
    cfg, every = fsdp.FSDPConfig(enable=True), params["among"]
    split = fsdp.split_bytes(state, every, cfg)
    whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    parameters = sum(x.size for x in jax.tree.leaves(state.policy.params))
    return {"bytes": whole, "each": whole - split + split // every, "parameters": parameters}


def _policy(size: str) -> tuple[Any, Any, Any]:
    """A pi0 under PPO, what it observes and what it does."""
    from mjx_serl.agents.flow_ppo import FlowPPOConfig
    from mjx_serl.nets.velocity_vla import VLAVelocityConfig
    from scenes.contract.specs import GRIPPER, STEPS, TURNS, ActionSpec, ObsField, ObsSpec

    picture = ObsField(name="front", shape=(64, 64, 3), dtype="uint8")
    obs = ObsSpec(fields=(picture, ObsField(name="joints", shape=(9,))))
    net: Any = VLAVelocityConfig(size="full" if size == "full" else "tiny")
    names = (*STEPS, *TURNS, GRIPPER)
    action = ActionSpec(mode="ee_delta", names=names, scale=(0.01,) * len(names), rate=20.0)
    return FlowPPOConfig(net=net, steps=2).build(), obs, action


def _pi0(among: int) -> tuple[Any, Any, Any]:
    """A small one, its state, and rows that it has chosen."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from mjx_serl.types import RolloutBatch

    agent, obs, action = _policy("tiny")
    state = agent.taught(agent.init(jax.random.key(0), obs, action))
    draw, rows = np.random.default_rng(0), among * _ROWS
    seen = {
        "front": jnp.asarray(draw.integers(0, 256, (rows, 64, 64, 3)), jnp.uint8),
        "joints": jnp.asarray(draw.normal(size=(rows, 9)), jnp.float32),
    }
    chosen = jax.jit(agent.draw)(state, seen, jax.random.key(1))
    batch = RolloutBatch(
        obs=seen,
        extras=chosen.extras,
        advantage=jnp.asarray(draw.normal(size=rows), jnp.float32),
        returns=jnp.ones(rows),
        valid=jnp.asarray(draw.random(rows) < 0.8),
    )
    return agent, state, batch


def _epoch(params: Params) -> Params:
    import jax

    from mjx_serl.run.programs import compile_epoch
    from mjx_serl.training.fsdp import FSDPConfig
    from mjx_serl.training.sharded import over_devices

    whole = _trainer(params)
    cfg = FSDPConfig(enable=True, min_size_mbytes=params["min_size_mbytes"])
    after, found = {}, {}
    for name, split in (("replicated", None), ("fsdp", cfg)):
        trainer: Any = over_devices(whole, params["devices"], split)
        epoch = compile_epoch(trainer, trainer.state_shapes())
        state, _ = epoch(trainer.init(jax.random.key(0)))
        after[name] = jax.device_get(state.agent)
        found[name] = _told(epoch) | {"agent_bytes": _held(state.agent)}
        found["note"], found["updates"] = trainer.note, trainer.updates_per_epoch
    return found | {"differ": _furthest(after["replicated"], after["fsdp"])}


def _apart(params: Params) -> Params:
    import jax

    from mjx_serl.run.programs import compile_epoch
    from mjx_serl.training.placed import over_placement
    from mjx_serl.training.placement import PlacementConfig

    whole, key = _trainer(params), jax.random.key(0)
    apart = over_placement(whole, PlacementConfig(**params["placement"]), params["devices"])
    epoch = compile_epoch(whole, whole.state_shapes())
    one, state, differ = whole.init(key), apart.init(key), []
    for _ in range(params["epochs"]):
        (one, _), (state, _) = epoch(one), apart.epoch(state)
        differ.append(_furthest(one.agent, state.agent))
    return {"note": apart.note, "differ": differ}


def _trainer(params: Params) -> Any:
    from mjx_serl.experiments import PRESETS

    cfg = dataclasses.replace(PRESETS[params["preset"]](), num_envs=params["worlds"])
    return cfg.build(cfg.build_observer())


def _overlap(params: Params) -> Params:
    import jax

    from mjx_serl.training.placed import over_placement
    from mjx_serl.training.placement import PlacementConfig

    slow, seconds, ready = _slow(params), {}, {}
    for stages in params["stages"]:
        where = PlacementConfig(env="0", actor="1", pipeline_stage_num=stages)
        apart = over_placement(slow, where, 2)
        state, _ = apart.epoch(apart.init(jax.random.key(0)))  # which compiles
        ready[stages] = apart, jax.block_until_ready(state)
    for _ in range(params["rounds"]):
        for stages, (apart, state) in ready.items():
            row, state = _timed(apart, state)
            ready[stages] = apart, state
            seconds.setdefault(str(stages), []).append(row)
    return {"rounds": seconds, "choices": _STEPS, "milliseconds": params["milliseconds"]}


def _timed(apart: Any, state: Any) -> tuple[Params, Any]:
    """Seconds of an epoch, of either sleeping, and of both at once; and the state after it."""
    import jax

    from benchmarks.workers.asleep import noted

    noted()
    begun = time.perf_counter()
    state, _ = jax.block_until_ready(apart.epoch(state))
    took, slept = time.perf_counter() - begun, noted()
    spans = [[(b, e) for which, b, e in slept if which == k] for k in range(2)]
    both = sum(max(0.0, min(e, f) - max(b, c)) for b, e in spans[0] for c, f in spans[1])
    each = {name: sum(e - b for b, e in rows) for name, rows in zip(_KINDS, spans, strict=True)}
    return {"epoch": took, **each, "both": both}, state


def _slow(params: Params) -> Any:
    """A trainer whose policy and worlds take their time, by the rows that they are given."""
    from benchmarks.workers.asleep import asleep
    from mjx_serl.agents.ppo import PPO, PPOConfig
    from mjx_serl.experiments import PRESETS
    from mjx_serl.training.on_policy import OnPolicy, OnPolicyConfig, OnPolicyLoopConfig

    def waited(chosen: Any, which: int) -> Any:
        action = chosen.action
        wait = params["milliseconds"] / 1e3 * len(action) / _WORLDS
        slept = asleep(action.reshape(len(action), -1), which, wait).reshape(action.shape)
        return chosen.replace(action=slept)

    @dataclasses.dataclass(frozen=True)
    class SlowPPO(PPO):
        def sample(self, state: Any, obs: Any, noise: Any) -> Any:
            return waited(super().sample(state, obs, noise), 0)

    class SlowWorlds(OnPolicy):
        def carry_out(self, worlds: Any, data: Any, chosen: Any) -> Any:
            return super().carry_out(worlds, data, waited(chosen, 1))

    loop = OnPolicyLoopConfig(rollout_steps=_STEPS, passes=1, minibatches=2)
    method = OnPolicyConfig(agent=PPOConfig(hidden=(16,)), loop=loop)
    cfg = dataclasses.replace(PRESETS["ppo"](), num_envs=_WORLDS, method=method)
    plain = cfg.build(cfg.build_observer())
    assert isinstance(plain, OnPolicy)
    return SlowWorlds(SlowPPO(PPOConfig(hidden=(16,))), plain.vec_env, loop)


def _told(compiled: Any) -> Params:
    """What passes in a compiled program, by kind, and its bytes on each device."""
    found = collectives_of(compiled.as_text())
    inside = [x for x in found if x.loops]
    memory = compiled.memory_analysis()
    return {
        "times": dict(Counter(x.kind for x in found if not x.loops)),
        "times_inside": _sums((x.kind, x.times) for x in inside),
        "bytes": _sums((x.kind, x.nbytes) for x in found if not x.loops),
        "bytes_inside": _sums((x.kind, x.nbytes * x.times) for x in inside),
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
    }


def _sums(pairs: Any) -> dict[str, int]:
    found: Counter[str] = Counter()
    for kind, amount in pairs:
        found[kind] += amount
    return dict(found)


def _held(tree: Any) -> int:
    """Bytes on the first device."""
    import jax

    return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))


def _furthest(some: Any, others: Any) -> float:
    import jax
    import numpy as np

    pairs = zip(jax.tree.leaves(some), jax.tree.leaves(others), strict=True)
    return float(
        max(np.abs(np.asarray(a, np.float64) - np.asarray(b)).max(initial=0) for a, b in pairs)
    )


_ASK = {"update": _update, "epoch": _epoch, "apart": _apart, "overlap": _overlap, "sizes": _sizes}


if __name__ == "__main__":
    serve(start)
