"""Steps our environment, or parts of it, in one jitted scan.

Params: task, physics, num_envs, seconds; cameras and size [px] of pictures, none without; threads
(native, 0 all); piece: "env" everything,
"control" controller and physics without task and auto-reset, "physics" alone; steps per call.
"""

import dataclasses
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.worker import Job, Params, rate, serve
from benchmarks.workers.platform import prepare

if TYPE_CHECKING:
    from mjx_serl.envs.env import Env, EnvState
    from mjx_serl.envs.observation import Observer

# Control steps of all worlds in one call on a CPU: about half a second.
CPU_CALL = 4096
GPU_STEPS = 20


def start(params: Params) -> Job:
    """Compile the program for `num_envs` worlds."""
    prepare(mjx=params["physics"] != "native")
    import jax

    env = build_env(params)
    num = params["num_envs"]
    steps = params.get("steps") or _steps(num, jax.default_backend())
    state, program = _program(_observer(env, params), params.get("piece", "env"), num, steps)
    begun = time.perf_counter()
    compiled = jax.jit(program, donate_argnums=0).lower(state).compile()
    compile_seconds = time.perf_counter() - begun
    facts = {
        "steps_per_call": steps,
        "ctrl_dt": env.ctrl_dt,
        "substeps": env.controller.inner_steps * env.controller.n_substeps,
        "state_bytes_per_world": sum(x.nbytes for x in jax.tree.leaves(state)) // num,
        "compile_seconds": round(compile_seconds, 2),
        "device": jax.local_devices()[0].device_kind,
    }
    box = [state]

    def call() -> None:
        box[0] = jax.block_until_ready(compiled(box[0]))

    call()
    return Job(lambda: rate(call, num * steps, params["seconds"]), facts | _device_bytes(num))


def build_env(params: Params) -> "Env":
    """Return the environment, its native physics on the asked-for number of threads."""
    from mjx_serl import tasks as tasks  # files the tasks in the registry
    from mjx_serl.envs.env import make_env

    # The pool of resets is stepped once too and may be larger than num_envs.
    env = make_env(params["task"], physics=params["physics"], max_worlds=max(params["num_envs"], 4))
    if params["physics"] == "native" and params.get("threads"):
        from mjx_serl.envs.physics.native import NativePhysics

        physics = NativePhysics(env.scene.model, num_threads=params["threads"])
        env = dataclasses.replace(env, physics=physics)
    return env


def _steps(num: int, backend: str) -> int:
    return max(2, min(100, CPU_CALL // num)) if backend == "cpu" else GPU_STEPS


def _observer(env: "Env", params: Params) -> "Observer":
    from mjx_serl.envs.observation import PixelConfig

    cameras = tuple(params.get("cameras", ()))
    return PixelConfig(cameras=cameras, size=params.get("size", 64)).build(env)


def _program(
    observer: "Observer", piece: str, num: int, steps: int
) -> tuple[Any, Callable[[Any], Any]]:
    import jax

    from mjx_serl.envs.vector import vectorize
    from mjx_serl.training.collect import rollout
    from mjx_serl.training.policies import random_policy

    env = observer.env
    vec_env = vectorize(observer, num_envs=num, pool_size=num)
    state = jax.jit(vec_env.reset)(jax.random.key(0))
    if piece == "env":
        policy = random_policy(env.action_dim)

        def run(state: Any) -> Any:
            key, fresh = jax.random.split(state.key)
            state, _ = rollout(vec_env, policy, state, fresh, steps)
            return state.replace(key=key)

        return state, run
    step = partial(_control_step, env) if piece == "control" else partial(_physics_step, env)
    worlds = (state.envs, jax.random.key(1))
    return worlds, partial(_scan_pieces, step, num, env.action_dim, steps)


def _scan_pieces(step: Callable, num: int, action_dim: int, steps: int, start: Any) -> Any:
    import jax

    def body(loop: tuple, _: None) -> tuple[tuple, None]:
        worlds, key = loop
        key, now = jax.random.split(key)
        action = jax.random.uniform(now, (num, action_dim), minval=-1.0, maxval=1.0)
        return (jax.vmap(step)(worlds, action), key), None

    return jax.lax.scan(body, start, None, length=steps)[0]


def _control_step(env: "Env", state: "EnvState", action: Any) -> "EnvState":
    import jax

    command = env.controller.command(state.command, state.sim, action)

    def inner(loop: tuple, _: None) -> tuple[tuple, None]:
        carry, sim = loop
        ctrl = env.controller.ctrl(command, sim)
        return env.physics.step(carry, ctrl, env.controller.n_substeps), None

    (carry, sim), _ = jax.lax.scan(
        inner, (state.carry, state.sim), None, length=env.controller.inner_steps
    )
    return state.replace(carry=carry, sim=sim, command=command)


def _physics_step(env: "Env", state: "EnvState", action: Any) -> "EnvState":
    import jax

    # The command of a held arm: its own joints as targets, the same work for the solver.
    ctrl = env.controller.ctrl(state.command, state.sim) + 0.01 * action.sum()
    ctrl = jax.numpy.clip(ctrl, env.controller.ctrl_low, env.controller.ctrl_high)

    def inner(loop: tuple, _: None) -> tuple[tuple, None]:
        return env.physics.step(loop[0], ctrl, env.controller.n_substeps), None

    (carry, sim), _ = jax.lax.scan(
        inner, (state.carry, state.sim), None, length=env.controller.inner_steps
    )
    return state.replace(carry=carry, sim=sim)


def _device_bytes(num: int) -> Params:
    import jax

    stats = jax.local_devices()[0].memory_stats()
    if not stats:
        return {}
    warp = warp_bytes() if "warp" in sys.modules else 0
    return {
        "xla_peak_bytes_per_world": stats["peak_bytes_in_use"] // num,
        "warp_bytes_per_world": warp // num,
    }


def warp_bytes() -> int:
    """Return the device memory that Warp's own pool has held at most [bytes]; 0 on a CPU."""
    import warp

    device = warp.get_device()
    return warp.get_mempool_used_mem_high(device) if device.is_mempool_supported else 0


if __name__ == "__main__":
    serve(start)
