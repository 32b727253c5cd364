"""Raw C MuJoCo on threads, without our environment: `mujoco.batch.Batch` and `mujoco.rollout`.

Params: engine ("batch" or "rollout"), task, num_envs, threads (0 all), seconds. Controls are
those our environment applied; a control step is as many physics steps as in ours, in one call.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import mujoco
import numpy as np

from benchmarks.worker import Job, Params, rate, serve
from benchmarks.workers.platform import prepare

if TYPE_CHECKING:
    from benchmarks.workers.recording import Recording


def start(params: Params) -> Job:
    """Record controls, then hand the model to the engine."""
    prepare()
    from benchmarks.workers.recording import record

    recording = record(params)
    threads = params.get("threads") or len(os.sched_getaffinity(0))
    engine = {"batch": _batch, "rollout": _rollout}[params["engine"]]
    call = engine(recording, threads)
    amount = recording.ctrl.shape[0] * recording.ctrl.shape[1]
    call()
    facts = {"ctrl_dt": recording.ctrl_dt, "substeps": recording.substeps, "threads": threads}
    return Job(lambda: rate(call, amount, params["seconds"]), facts)


def _batch(recording: "Recording", threads: int) -> Callable[[], None]:
    from mujoco import batch

    sims = batch.Batch(recording.model, nsim=len(recording.qpos), nthread=threads)
    qpos, ctrl = sims.bind("qpos"), sims.bind("ctrl")

    def call() -> None:
        sims.reset()
        qpos[...] = recording.qpos
        for row in recording.ctrl:
            ctrl[...] = row
            sims.step(nstep=recording.substeps)

    return call


def _rollout(recording: "Recording", threads: int) -> Callable[[], None]:
    from mujoco import rollout

    model = recording.model
    pool = rollout.Rollout(nthread=threads)
    data = [mujoco.MjData(model) for _ in range(threads)]
    spec = mujoco.mjtState.mjSTATE_FULLPHYSICS
    state = np.zeros((len(recording.qpos), mujoco.mj_stateSize(model, spec)))
    state[:, 1 : 1 + model.nq] = recording.qpos  # time comes first
    ctrl = np.repeat(recording.ctrl.swapaxes(0, 1), recording.substeps, axis=1)

    def call() -> None:
        pool.rollout(model, data, state, ctrl)

    return call


if __name__ == "__main__":
    serve(start)
