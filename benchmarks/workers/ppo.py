"""Our PPO: env-steps per second while training, in whole epochs of one compiled call each.

Params: task, num_envs, rollout_steps, passes, minibatches, hidden, seconds.
"""

import time

from benchmarks.worker import Job, Params, rate, serve
from benchmarks.workers.platform import prepare


def start(params: Params) -> Job:
    """Compile the epoch."""
    prepare()
    import jax

    from mjx_serl.agents.ppo import PPOConfig
    from mjx_serl.config import TrainConfig
    from mjx_serl.training.on_policy import OnPolicyConfig, OnPolicyLoopConfig

    loop = {name: params[name] for name in ("rollout_steps", "passes", "minibatches")}
    # As brax's: swish, no norms, no gradient clipping, every update made.
    agent = PPOConfig(
        hidden=tuple(params["hidden"]), activation="swish", clip_norm=None, stop_kl=None
    )
    method = OnPolicyConfig(agent=agent, loop=OnPolicyLoopConfig(**loop))
    cfg = TrainConfig(task=params["task"], num_envs=params["num_envs"], method=method)
    trainer = cfg.build(cfg.build_observer())
    box = [trainer.init(jax.random.key(0))]
    begun = time.perf_counter()
    compiled = jax.jit(trainer.epoch, donate_argnums=0).lower(box[0]).compile()
    facts = {"compile_seconds": round(time.perf_counter() - begun, 2), "physics": "native"}

    def call() -> None:
        box[0] = jax.block_until_ready(compiled(box[0])[0])

    call()
    steps = trainer.env_steps_per_epoch
    return Job(lambda: rate(call, steps, params["seconds"]), facts)


if __name__ == "__main__":
    serve(start)
