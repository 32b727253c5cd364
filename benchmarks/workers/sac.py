"""Our SAC learner: updates per second, sampling from the replay buffer included.

Params: layer_norm, activation, compute_dtype, seconds; mode: "scan" makes `updates` updates in
one compiled call, "calls" one per call; profile: a file for a per-operation table. Settings as
sbx's SAC: batch 256, two hidden layers of 256, two critics, minimum of both, entropy in the target.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.worker import Job, Params, rate, serve
from benchmarks.workers.platform import prepare
from benchmarks.workers.replay import random_transitions
from scenes.contract.specs import ActionSpec, ObsField, ObsSpec

BATCH = 256
OBS_DIM = 24  # as many numbers as franka/pick_cube shows
ACTION_DIM = 4
ACTION = ActionSpec(
    mode="ee_delta", names=("x", "y", "z", "gripper"), scale=(1.0,) * ACTION_DIM, rate=10.0
)
STORED = 50_000
WORLDS = 8


def start(params: Params) -> Job:
    """Fill a buffer with random transitions and compile the updates."""
    prepare()
    import jax

    updates = params["updates"] if params["mode"] == "scan" else 1
    state, program = build(params, updates)
    begun = time.perf_counter()
    compiled = jax.jit(program, donate_argnums=0).lower(*state).compile()
    compile_seconds = time.perf_counter() - begun
    box = list(state)

    def call() -> None:
        box[0], box[2] = jax.block_until_ready(compiled(*box))

    call()
    if params.get("profile"):
        from benchmarks.workers.profile import write_profile

        write_profile(Path(params["profile"]), call, compiled.as_text() or "", updates, params)
    facts = {
        "batch": BATCH,
        "updates_per_call": updates,
        "note": "LayerNorm in actor and critics" if params["layer_norm"] else "",
        "compile_seconds": round(compile_seconds, 2),
    }
    return Job(lambda: rate(call, updates, params["seconds"]), facts)


def build(params: Params, updates: int) -> tuple[list[Any], Callable]:
    """Return [agent state, buffer state, key] and the function that makes `updates` updates."""
    import jax

    from mjx_serl.agents.sac import SACConfig
    from mjx_serl.data.replay import ReplayBuffer

    agent = SACConfig(
        activation=params["activation"],
        layer_norm=params["layer_norm"],
        compute_dtype=params.get("compute_dtype", "float32"),
        gamma=0.99,
        init_temperature=1.0,
        target_entropy=-float(ACTION_DIM),
        backup_entropy=True,
        actor_q="min",
    ).build()
    buffer = ReplayBuffer(STORED // WORLDS, WORLDS)
    k_obs, k_rest = jax.random.split(jax.random.key(0))
    seen = jax.random.normal(k_obs, (STORED // WORLDS, WORLDS, OBS_DIM))
    rows = random_transitions(k_rest, {"state": seen}, ACTION_DIM)
    stored = buffer.add(buffer.init(jax.tree.map(lambda x: x[0, 0], rows)), rows)
    spec = ObsSpec(fields=(ObsField(name="state", shape=(OBS_DIM,)),))
    state = jax.jit(lambda key: agent.init(key, spec, ACTION))(jax.random.key(1))

    def program(state: Any, stored: Any, key: Any) -> tuple[Any, Any]:
        key, k_sample, k_learn = jax.random.split(key, 3)
        batches = buffer.sample(stored, k_sample, (updates, BATCH))

        def learn(state: Any, xs: tuple) -> tuple[Any, None]:
            return agent.update(state, *xs)[0], None

        keys = jax.random.split(k_learn, updates)
        return jax.lax.scan(learn, state, (batches, keys))[0], key

    return [state, stored, jax.random.key(2)], program


if __name__ == "__main__":
    serve(start)
