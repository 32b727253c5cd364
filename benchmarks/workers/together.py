"""Epochs of one seed, or of several together: updates per second of all.

Params: preset, seeds (how many), of (epochs of a call, of all), how ("cores" or "one_call"),
steps_per_epoch, seconds.
"""

import time
from functools import partial
from typing import Any

from benchmarks.worker import Job, Params, rate, serve
from benchmarks.workers.platform import prepare


def start(params: Params) -> Job:
    """Compile the epoch and make a state for each seed."""
    prepare()
    import jax

    from mjx_serl.experiments import preset
    from mjx_serl.run.crew import InOneCall, OnCores, Order, cores
    from mjx_serl.run.programs import Programs, compile_epoch
    from scenes.contract.serialize import from_json, to_json

    base, seeds = preset(params["preset"]), params["seeds"]
    data = to_json(base)
    data["method"]["loop"]["steps_per_epoch"] = params["steps_per_epoch"]
    cfg = from_json(type(base), data)
    trainer = cfg.build(cfg.build_observer())
    states = [trainer.init(jax.random.key(seed)) for seed in range(seeds)]
    begun, at_once = time.perf_counter(), params["how"] == "one_call"
    epoch = compile_epoch(trainer, trainer.state_shapes(), seeds=seeds if at_once else None)
    facts = {"compile_seconds": round(time.perf_counter() - begun, 2)}
    programs = Programs(epoch, _unasked, _unasked)
    made = (
        partial(InOneCall, places=seeds)
        if at_once
        else partial(OnCores, workers=min(seeds, cores()))
    )
    crew = made(trainer, programs, states)

    def call() -> None:
        # Equally long by each way: others' work weighs more on what lasts.
        for _ in range(params["of"] // seeds):
            for seed in range(seeds):
                crew.order(Order(seed=seed, epoch=True))
            for _ in range(seeds):
                crew.done()

    call()
    return Job(
        lambda: rate(call, params["of"] * trainer.updates_per_epoch, params["seconds"]), facts
    )


def _unasked(params: Any, key: Any) -> Any:
    raise NotImplementedError("nothing is evaluated here")


if __name__ == "__main__":
    serve(start)
