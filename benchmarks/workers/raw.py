"""Raw C MuJoCo on threads, without our environment: `mujoco.batch.Batch` and `mujoco.rollout`.

Params: engine ("batch" or "rollout"), task, num_envs, threads (0 all), seconds. Controls are
those our environment applied, each for as many physics steps as there. The batch restarts worlds
where ours did, so that both step the same states; a rollout cannot.
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
    amount = recording.ctrl.shape[0] * recording.ctrl.shape[2]
    call()
    facts = {"ctrl_dt": recording.ctrl_dt, "substeps": recording.substeps, "threads": threads}
    return Job(lambda: rate(call, amount, params["seconds"]), facts)


def _batch(recording: "Recording", threads: int) -> Callable[[], None]:
    from mujoco import batch

    sims = batch.Batch(recording.model, nsim=recording.qpos.shape[1], nthread=threads)
    qpos, qvel, ctrl = (sims.bind(name) for name in ("qpos", "qvel", "ctrl"))
    ended = [np.flatnonzero(row) for row in recording.ended]

    def call() -> None:
        sims.reset()
        qpos[...] = recording.qpos[0]
        for i, held in enumerate(recording.ctrl):
            for row in held:
                ctrl[...] = row
                sims.step(nstep=recording.n_substeps)
            if i + 1 < len(ended) and len(ended[i]):
                qpos[ended[i]], qvel[ended[i]] = recording.qpos[i + 1][ended[i]], 0.0

    return call


def _rollout(recording: "Recording", threads: int) -> Callable[[], None]:
    from mujoco import rollout

    model = recording.model
    pool = rollout.Rollout(nthread=threads)
    data = [mujoco.MjData(model) for _ in range(threads)]
    spec = mujoco.mjtState.mjSTATE_FULLPHYSICS
    state = np.zeros((recording.qpos.shape[1], mujoco.mj_stateSize(model, spec)))
    state[:, 1 : 1 + model.nq] = recording.qpos[0]  # time comes first
    worlds, width = recording.ctrl.shape[2:]
    rows = np.moveaxis(recording.ctrl, 2, 0).reshape(worlds, -1, width)
    ctrl = np.repeat(rows, recording.n_substeps, axis=1)

    def call() -> None:
        pool.rollout(model, data, state, ctrl)

    return call


if __name__ == "__main__":
    serve(start)
