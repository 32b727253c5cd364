"""envpool's PandaPickCube-v1: C++ environments on threads, reward and auto-reset included.

Params: num_envs, threads, seconds. Runs in a virtual environment of its own.
"""

from benchmarks.worker import Job, Params, rate, serve


def start(params: Params) -> Job:
    """Make the pool; it builds one model per environment, which takes its time."""
    import envpool
    import numpy as np

    num = params["num_envs"]
    pool = envpool.make(
        "PandaPickCube-v1",
        env_type="gymnasium",
        num_envs=num,
        num_threads=params["threads"],
        seed=0,
    )
    pool.reset()
    draw = np.random.default_rng(0)
    shape = (16, num, *pool.action_space.shape)
    actions = draw.uniform(-1.0, 1.0, shape)

    def call() -> None:
        for action in actions:
            pool.step(action)

    config = pool.spec.config
    facts = {"ctrl_dt": config.ctrl_dt, "substeps": round(config.ctrl_dt / config.sim_dt)}
    return Job(lambda: rate(call, len(actions) * num, params["seconds"]), facts)


if __name__ == "__main__":
    serve(start)
