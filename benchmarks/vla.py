"""How long does a chunk of actions take a vision-language-action policy, and what does it hold?

    python -m benchmarks.vla

Chunks by Euler's method from pictures of the policy's size, its full prompt and noise; the prefix
is read once per chunk. Compiling is measured apart, without the cache of programs.
"""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.results import Recorder
from benchmarks.resumable import measure_to_save
from mjx_serl.nets.vla.config import SIZES, SizeName, VLAConfig
from mjx_serl.nets.vla.memory import memory_use
from mjx_serl.nets.vla.policy import FlowVLA, Observation
from scenes.contract.ranges import ranged

QUESTION = "vla"


@dataclass(frozen=True, kw_only=True)
class VLABenchConfig:
    """What to measure.

    Attributes:
        size: of the policy.
        batches: observations at once.
        steps: of Euler's method.
        repeats: calls of each, of which the median counts.
        save: file the results and rewrite RESULTS.md.
    """

    size: SizeName = "tiny"
    batches: tuple[int, ...] = ranged((1, 16), least=1, filled=True)
    steps: int = ranged(5, least=1)
    repeats: int = ranged(20, least=1)
    save: bool = False


def observation(config: VLAConfig, batch: int) -> Observation:
    """Grey pictures, a full prompt, a state of zeros."""
    size = config.vision.image
    picture = jnp.full((batch, size, size, 3), 128, jnp.uint8)
    return Observation(
        images=dict.fromkeys(config.cameras, picture),
        present={},
        tokens=jnp.ones((batch, config.prompt), jnp.int32),
        token_mask=jnp.ones((batch, config.prompt), bool),
        state=jnp.zeros((batch, config.state_dim)),
    )


def run(cfg: VLABenchConfig, recorder: Recorder) -> None:
    """Measure and record the time of a call for each batch."""
    config = SIZES[cfg.size]
    net = FlowVLA(config)
    params = jax.block_until_ready(jax.jit(net.init)(jax.random.key(0)))

    def sample(params: Any, seen: Observation, noise: jax.Array) -> jax.Array:
        cache, _ = net.encode_prefix(params, *seen)

        def step(x: jax.Array, t: jax.Array) -> tuple[jax.Array, None]:
            velocity = net.velocity(params, cache, x, jnp.broadcast_to(t, len(x)))
            return x - velocity / cfg.steps, None

        return jax.lax.scan(step, noise, 1.0 - jnp.arange(cfg.steps) / cfg.steps)[0]

    for batch in cfg.batches:
        seen = observation(config, batch)
        noise = jnp.zeros((batch, config.horizon, config.action_dim))
        begun = time.perf_counter()
        call = jax.jit(sample).lower(params, seen, noise).compile()
        compiled = time.perf_counter() - begun
        taken = [_seconds(call, params, seen, noise) for _ in range(cfg.repeats + 1)][1:]
        facts = {
            "steps": cfg.steps,
            "compile_seconds": compiled,
            "worst": 1e3 * max(taken),
            "note": f"needs {memory_use(config, batch=batch)} to learn",
        }
        recorder.add(f"{cfg.size}, {batch} at once", 1e3 * statistics.median(taken), "ms", facts)


def _seconds(call: Any, *args: Any) -> float:
    begun = time.perf_counter()
    jax.block_until_ready(call(*args))
    return time.perf_counter() - begun


if __name__ == "__main__":
    measure_to_save(VLABenchConfig, __doc__, QUESTION, run)
