"""brax PPO on MuJoCo Playground's PandaPickCube: env-steps per second, learning included.

Params: num_envs. One repetition is one training run of a few iterations; its rate counts the
iterations after the first, so compiling is left out.
"""

import time
from typing import Any

from benchmarks.peers.playground import load_env
from benchmarks.worker import Job, Params, serve

UNROLL = 10
ITERATIONS = 3  # evaluations' intervals; the first one carries the compilation


def start(params: Params) -> Job:
    """Load the environment; nothing is compiled before the run."""
    import jax

    impl = "jax" if jax.default_backend() == "cpu" else "warp"
    env = load_env(impl, params["num_envs"])
    rates: list[float] = []

    def measure() -> float:
        if not rates:  # the harness's warm-up call is the measurement: there is one run
            rates.append(_train(env, params["num_envs"]))
        return rates[0]

    return Job(measure, {"ctrl_dt": env.dt, "impl": impl, "unroll": UNROLL})


def _train(env: Any, num_envs: int) -> float:
    from brax.training.agents.ppo import train as ppo
    from mujoco_playground import wrapper

    seen: list[tuple[float, int]] = []
    per_iteration = num_envs * UNROLL
    ppo.train(
        environment=env,
        wrap_env_fn=wrapper.wrap_for_brax_training,
        num_timesteps=ITERATIONS * per_iteration,
        episode_length=150,
        num_envs=num_envs,
        unroll_length=UNROLL,
        batch_size=num_envs // 4,
        num_minibatches=4,
        num_updates_per_batch=4,
        num_evals=ITERATIONS + 1,
        run_evals=False,
        log_training_metrics=False,
        progress_fn=lambda steps, metrics: seen.append((time.perf_counter(), steps)),
    )
    (begin, first), (end, last) = seen[-2], seen[-1]
    return (last - first) / (end - begin)


if __name__ == "__main__":
    serve(start)
