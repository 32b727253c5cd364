"""brax PPO on one of our tasks through `BraxEnv`: env-steps per second while training.

Params: those of `benchmarks.workers.ppo`, and steps: env steps of one repetition. The training runs
in a thread that waits between repetitions where brax reports; compiling is in the first report.
"""

import threading
import time
import warnings
from functools import partial
from typing import Any

from benchmarks.worker import Job, Params, serve
from benchmarks.workers.platform import prepare

MOST_REPETITIONS = 1000  # that a run is long enough for


def start(params: Params) -> Job:
    """Begin a training and stop it where the first of it is done and all is compiled."""
    prepare()
    # brax calls what JAX is leaving behind.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    paused = Paused(params)
    begun = time.perf_counter()
    paused.go_on()
    facts = {"compile_seconds": round(time.perf_counter() - begun, 2), "physics": "native"}
    return Job(paused.go_on, facts)


class Paused:
    """A training that stands still between two calls of `go_on`."""

    def __init__(self, params: Params) -> None:
        self._steps = 0
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._problem: Exception | None = None
        self._params = params
        threading.Thread(target=self._run, daemon=True).start()

    def go_on(self) -> float:
        """Let it train `steps` env steps; returns those that it says it made per second."""
        begun, before = time.perf_counter(), self._steps
        self._go.release()
        self._done.acquire()
        if self._problem is not None:
            raise self._problem
        return (self._steps - before) / (time.perf_counter() - begun)

    def _report(self, steps: int, metrics: Any) -> None:
        del metrics
        if steps == 0:
            return  # before anything
        self._steps = steps
        self._done.release()
        self._go.acquire()

    def _run(self) -> None:
        try:
            self._go.acquire()
            _train(self._params, self._report)
        except Exception as error:  # told by whoever waits for it
            self._problem = error
            self._done.release()


def _train(params: Params, report: Any) -> None:
    from brax.training.agents.ppo import train as ppo
    from brax.training.agents.ppo.networks import make_ppo_networks

    from mjx_serl.adapters.brax import BraxEnv
    from mjx_serl.envs.env import make_env

    num, minibatches, hidden = params["num_envs"], params["minibatches"], tuple(params["hidden"])
    env = BraxEnv(make_env(params["task"], physics="native", max_worlds=num))
    sizes = {"policy_hidden_layer_sizes": hidden, "value_hidden_layer_sizes": hidden}
    ppo.train(
        environment=env,
        num_timesteps=MOST_REPETITIONS * params["steps"],
        num_evals=MOST_REPETITIONS + 1,
        episode_length=env.episode_length,
        num_envs=num,
        num_eval_envs=num,
        unroll_length=params["rollout_steps"],
        # Counted in unrolls: together the minibatches are one rollout of all worlds.
        batch_size=num // minibatches,
        num_minibatches=minibatches,
        num_updates_per_batch=params["passes"],
        network_factory=partial(make_ppo_networks, **sizes),
        run_evals=False,
        log_training_metrics=False,
        progress_fn=report,
    )


if __name__ == "__main__":
    serve(start)
