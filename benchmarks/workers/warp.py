"""Pure MuJoCo Warp without JAX around it; on a GPU as one captured CUDA graph per control step.

Params: task, num_envs, seconds. Buffers are sized as ours are.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.worker import Job, Params, rate, serve
from benchmarks.workers.platform import prepare

if TYPE_CHECKING:
    from benchmarks.workers.recording import Recording


def start(params: Params) -> Job:
    """Record controls on the CPU, upload model and worlds, capture the graph."""
    prepare()
    import jax

    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        from benchmarks.workers.recording import record

        recording = record(params, steps=1)
    call, facts = _graph(recording)
    call()
    steps = params.get("steps", 5)

    def calls() -> None:
        for _ in range(steps):
            call()
        _synchronise()

    from benchmarks.workers.env import warp_bytes

    facts["warp_bytes_per_world"] = warp_bytes() // params["num_envs"]
    facts |= {"ctrl_dt": recording.ctrl_dt, "substeps": recording.substeps}
    amount = steps * params["num_envs"]
    return Job(lambda: rate(calls, amount, params["seconds"]), facts)


def _graph(recording: "Recording") -> tuple[Callable[[], None], Params]:
    import warp

    from mjx_serl.envs.physics.mjx import CONTACTS_PER_WORLD, ROWS_PER_WORLD
    from scenes.build import warp_model

    engine, source = _engine()
    worlds = recording.qpos.shape[1]
    cpu_model = warp_model(recording.model)
    model = engine.put_model(cpu_model)
    data = engine.make_data(
        cpu_model, nworld=worlds, naconmax=CONTACTS_PER_WORLD * worlds, njmax=ROWS_PER_WORLD
    )
    data.qpos.assign(recording.qpos[0].astype(np.float32))
    data.ctrl.assign(recording.ctrl[0, -1].astype(np.float32))

    def substeps() -> None:
        for _ in range(recording.substeps):
            engine.step(model, data)

    engine.step(model, data)  # compiles every kernel before the capture
    on_gpu = warp.get_device().is_cuda
    facts = {"mujoco_warp": source, "graph": on_gpu, "device": str(warp.get_device())}
    if not on_gpu:
        return substeps, facts
    with warp.ScopedCapture() as capture:
        substeps()
    graph = capture.graph
    assert graph is not None  # only None while the capture runs
    return lambda: warp.capture_launch(graph), facts


def _engine() -> tuple[Any, str]:
    try:
        import mujoco_warp
    except ImportError:
        from mujoco.mjx.third_party import mujoco_warp

        return mujoco_warp, "inside mujoco-mjx"
    return mujoco_warp, "package mujoco-warp"


def _synchronise() -> None:
    import warp

    warp.synchronize()


if __name__ == "__main__":
    serve(start)
