"""sbx's SAC (Stable-Baselines3 in JAX): updates per second on a filled replay buffer.

Params: layer_norm (sbx has it in the critics only), activation, updates per `train` call,
seconds. Runs in a virtual environment of its own.
"""

from typing import Any

from benchmarks.worker import Job, Params, rate, serve

BATCH = 256
OBS_DIM = 24
ACTION_DIM = 4
STORED = 50_000


def start(params: Params) -> Job:
    """Make the learner and fill its buffer; the first call compiles."""
    import flax.linen as nn
    import jax
    from sbx import SAC
    from stable_baselines3.common.logger import configure

    model = SAC(
        "MlpPolicy",
        _environment(),
        batch_size=BATCH,
        buffer_size=STORED,
        seed=0,
        policy_kwargs={
            "net_arch": [256, 256],
            "n_critics": 2,
            "layer_norm": params["layer_norm"],
            "activation_fn": {"tanh": nn.tanh, "relu": nn.relu}[params["activation"]],
        },
    )
    model.set_logger(configure(None, []))
    _fill(model.replay_buffer)
    updates = params["updates"]

    def call() -> None:
        model.train(gradient_steps=updates, batch_size=BATCH)
        jax.block_until_ready(model.policy.qf_state.params)

    call()
    facts = {
        "batch": BATCH,
        "updates_per_call": updates,
        "note": "LayerNorm in the critics only" if params["layer_norm"] else "",
    }
    return Job(lambda: rate(call, updates, params["seconds"]), facts)


def _environment() -> Any:
    import gymnasium
    import numpy as np

    class Spaces(gymnasium.Env):
        """Only its spaces are read; the buffer is filled by hand."""

        observation_space = gymnasium.spaces.Box(-10.0, 10.0, (OBS_DIM,), np.float32)
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)

    return Spaces()


def _fill(buffer: Any) -> None:
    import numpy as np

    draw = np.random.default_rng(0)
    buffer.observations[:] = draw.normal(size=buffer.observations.shape)
    buffer.next_observations[:] = draw.normal(size=buffer.next_observations.shape)
    buffer.actions[:] = draw.uniform(-1.0, 1.0, buffer.actions.shape)
    buffer.rewards[:] = draw.uniform(size=buffer.rewards.shape)
    buffer.full, buffer.pos = True, 0


if __name__ == "__main__":
    serve(start)
