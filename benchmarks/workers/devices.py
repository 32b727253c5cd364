"""What a process finds whose CPU is several devices: its facts answer one question.

Params: devices, preset, ask, and what the question wants. "collectives": what one epoch exchanges
between devices, which is compiled and not run. "same": what is not the same on all devices after an
epoch. "statistics": metrics of the first `epochs` epochs of each of `seeds`. "exact": whether a run
can be repeated and resumed bit for bit; `folder` is where its state is kept. "resume": whether a
state kept there is the same here, and goes on.
"""

import hashlib
from pathlib import Path
from typing import Any

from benchmarks.collectives import collectives_of
from benchmarks.worker import Job, Params, serve
from benchmarks.workers.platform import prepare


def start(params: Params) -> Job:
    """Answer the question."""
    prepare(cpu_devices=params["devices"])
    found = _ASK[params["ask"]](_Run(params), params)
    return Job(lambda: 0.0, found)


class _Run:
    """A preset's trainer on so many devices, and its compiled epoch."""

    def __init__(self, params: Params) -> None:
        from mjx_serl.experiments import PRESETS
        from mjx_serl.run.programs import compile_epoch
        from mjx_serl.training.sharded import over_devices

        cfg = PRESETS[params["preset"]]()
        self.trainer: Any = over_devices(cfg.build(cfg.build_observer()), params["devices"])
        self.shapes = self.trainer.state_shapes()
        self.epoch = compile_epoch(self.trainer, self.shapes)

    def start(self, seed: int) -> Any:
        import jax

        return self.trainer.init(jax.random.key(seed))

    def after(self, state: Any, epochs: int) -> Any:
        for _ in range(epochs):
            state = self.epoch(state)[0]
        return state


def _collectives(run: _Run, params: Params) -> Params:
    del params
    found = collectives_of(run.epoch.as_text())
    return {
        "updates": run.trainer.updates_per_epoch,
        "env_steps": run.trainer.env_steps_per_epoch,
        "inside": [[x.kind, x.nbytes, x.times] for x in found if x.loops],
        "outside": [[x.kind, x.nbytes] for x in found if not x.loops],
    }


def _same(run: _Run, params: Params) -> Params:
    del params
    state, metrics = run.epoch(run.start(0))
    return {"torn": run.trainer.torn(state), "metrics": {k: float(x) for k, x in metrics.items()}}


def _statistics(run: _Run, params: Params) -> Params:
    import jax

    found: dict[str, list[list[float]]] = {}
    for seed in params["seeds"]:
        state, rows = run.start(seed), []
        for _ in range(params["epochs"]):
            state, metrics = run.epoch(state)
            rows.append(jax.device_get(metrics))
        for name in params["metrics"]:
            found.setdefault(name, []).append([float(row[name]) for row in rows])
    return {"metrics": found}


def _exact(run: _Run, params: Params) -> Params:
    from mjx_serl.run.checkpoint import CheckpointStore

    store, k = CheckpointStore(Path(params["folder"])), params["epochs"]
    state = run.after(run.start(0), k)
    store.save(k, state, {})
    kept, through = digest(state), digest(run.after(state, k))
    resumed = run.after(store.restore(run.shapes)[0], k)
    again = run.after(run.start(0), 2 * k)
    return {
        "kept": kept,
        "resumed": digest(resumed) == through,
        "repeated": digest(again) == through,
    }


def _resume(run: _Run, params: Params) -> Params:
    import jax
    import numpy as np

    from mjx_serl.run.checkpoint import CheckpointStore

    state = CheckpointStore(Path(params["folder"])).restore(run.shapes)[0]
    kept = digest(state)
    _, metrics = run.epoch(state)
    fine = all(np.isfinite(x) for x in jax.device_get(metrics).values())
    return {"kept": kept, "goes_on": fine}


def digest(state: Any) -> str:
    """Return a checksum of all numbers of a state."""
    import jax
    import numpy as np

    found = hashlib.sha256()
    for x in jax.tree.leaves(state):
        is_key = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        found.update(np.asarray(jax.random.key_data(x) if is_key else x).tobytes())
    return found.hexdigest()


_ASK = {
    "collectives": _collectives,
    "same": _same,
    "statistics": _statistics,
    "exact": _exact,
    "resume": _resume,
}


if __name__ == "__main__":
    serve(start)
