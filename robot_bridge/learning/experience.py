"""What an arm does as transitions for a learner, in batches, while it does it."""

import logging
import queue
import threading
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from robot_bridge.messages import ENDINGS, Ending, Tick
from robot_bridge.network.transition_client import TransitionClient
from robot_bridge.records.steps import Obs, Step, StepCollector, step_arrays
from scenes.contract.errors import InputError
from scenes.contract.specs import ObsSpec

_LOG = logging.getLogger(__name__)
ROWS = 16  # steps of a batch; two pictures of 128 px are 1.6 MB then
BATCH_BYTES = 4 << 20  # of larger pictures fewer
WAITING = 4096  # ticks that may wait for the thread; 40 s
STEP = "step"  # number of a row in its episode


class Experience:
    """Steps of episodes, as they come, to a `TransitionClient`.

    A batch is arrays [T, ...]: "obs/NAME", "action" as executed, "reward", "terminated",
    "truncated", "expert" where a person chose, and "step", which counts from 0 in each episode. An
    episode's last step pays 1 where it was a success; success and failure terminate, anything else
    truncates. Batches follow each other; an episode that is cut off by the end of the process
    lacks its last rows, and the next one's begin with step 0.

    `put` and `event` never wait: what does not find room is counted.

    Attributes:
        steps: that were handed over.
        lost: ticks and steps that found no room.

    Args:
        client: to whom; it is not closed.
        obs: what is observed.
    """

    def __init__(self, client: TransitionClient, obs: ObsSpec) -> None:
        self.steps = self.lost = 0
        self._client, self._obs = client, obs
        size = sum(int(np.prod(f.shape)) * np.dtype(f.dtype).itemsize for f in obs.fields)
        self._rows = max(1, min(ROWS, BATCH_BYTES // max(size, 1)))
        self._queue: queue.Queue[tuple[Tick, Obs | None] | str | None] = queue.Queue(WAITING)
        self._collector: StepCollector | None = None
        self._sent = 0  # steps of the episode that were handed over
        self._thread = threading.Thread(target=self._run, name="experience", daemon=True)
        self._thread.start()

    def put(self, tick: Tick, obs: Mapping[str, NDArray[Any]] | None = None) -> bool:
        """Take a tick with what the policy has seen since the last; as `Recorder.put`."""
        return self._offer((tick, obs))

    def event(self, name: str, **facts: Any) -> bool:
        """Hear that an episode begins, or how it ended; as `Recorder.event`."""
        del facts
        return self._offer(name)

    def settle(self) -> None:
        """Return once everything so far is handed over."""
        self._queue.join()

    def close(self) -> None:
        """Hand over what waits, and end."""
        self._queue.put(None)
        self._thread.join(timeout=10.0)

    def _offer(self, what: tuple[Tick, Obs | None] | str) -> bool:
        try:
            self._queue.put_nowait(what)
        except queue.Full:
            self.lost += 1
            return False
        return True

    # -- in its thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        while (what := self._queue.get()) is not None:
            self._take(what)
            self._queue.task_done()
        self._end("cut")

    def _take(self, what: tuple[Tick, Obs | None] | str) -> None:
        if isinstance(what, str):
            if what == "begin":
                self._end("cut")
                self._collector, self._sent = StepCollector(), 0
            elif what in ENDINGS:
                self._end(cast(Ending, what))
        elif self._collector is not None:
            self._collector.take(*what)
            steps = self._collector.steps
            # The newest waits: it may turn out to be the last.
            if len(steps) > self._rows:
                self._send(steps[:-1])
                del steps[:-1]

    def _end(self, ending: Ending) -> None:
        """Hand over the rest of an episode."""
        if self._collector is not None and self._collector.steps:
            self._send(self._collector.steps, ending)
        self._collector = None

    def _send(self, steps: list[Step], ending: Ending | None = None) -> None:
        number = np.arange(self._sent, self._sent + len(steps), dtype=np.int32)
        self._sent += len(steps)
        try:
            kept = self._client.put(step_arrays(steps, self._obs, ending) | {STEP: number})
            trouble = self._client.trouble
        except InputError as error:  # not observed as the contract says, or not to be written
            kept, trouble = False, str(error)
        if kept:
            self.steps += len(steps)
        else:
            self.lost += len(steps)
            _LOG.error("%d steps are lost: %s", len(steps), trouble)
