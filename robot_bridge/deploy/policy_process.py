"""The policy in a process of its own, so that nothing it does can delay the control loop.

`PolicyProcess` starts `python -m robot_bridge.deploy.policy_process` beside the process that owns
the arm. It loads the bundle again, opens the cameras, and commands through ipc in a private
folder. It ends when its parent does: when its standard input closes.
"""

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from robot_bridge.clock import MonotonicClock
from robot_bridge.control.pacing import Pacer
from robot_bridge.deploy.rigs import RigConfig, open_senses
from robot_bridge.learning.link import LearningConfig, Refresher
from robot_bridge.network.client import BridgeClient, RemotePolicySide
from robot_bridge.network.endpoints import Endpoint
from robot_bridge.policy.bundle import Bundle, load_bundle, stacking
from robot_bridge.policy.observation import ObservationBuilder, Words
from robot_bridge.policy.policy import Policy, Standing
from robot_bridge.policy.policy_loop import PolicyLoop
from robot_bridge.safety.limits import Limits
from scenes.contract.errors import InputError
from scenes.contract.serialize import digest, from_json, to_json

READY = "ready"
PROCESS = "policy"  # what it calls itself


@dataclass(frozen=True, kw_only=True)
class PolicyTask:
    """What the process is told on its standard input, as one line of JSON.

    Attributes:
        bundle: its folder.
        digest: of the bundle that a person consents to; another one there is refused.
        sockets: folder of the ipc sockets.
        ticket: by which the bridge knows this process from all others.
        rig: for its cameras and objects.
        limits: the control loop's, which checks them again.
        learning: of whose learner it takes newer parameters.
        hands_only: it wants nothing.
        words: what the policy is told.
    """

    bundle: str
    digest: str
    sockets: str
    ticket: str = field(repr=False)
    rig: RigConfig
    limits: Limits
    learning: LearningConfig = field(default_factory=LearningConfig)
    hands_only: bool = False
    words: Words = field(default_factory=Words)


class PolicyProcessError(RuntimeError):
    """The policy's process did not start; one line says why."""


class PolicyProcess:
    """The running process, made when it is ready.

    Raises PolicyProcessError with its last words where it is not ready in time.
    """

    def __init__(self, task: PolicyTask, *, timeout: float = 30.0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "robot_bridge.deploy.policy_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(to_json(task)) + "\n")
        self._process.stdin.flush()
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(timeout, give_up)
        timer.start()
        said = self._process.stdout.readline().strip() if self._process.stdout else ""
        timer.cancel()
        if said != READY:
            # Its pipes close as it ends; one that said something else is ended here.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=1.0)
            self._process.kill()
            _, errors = self._process.communicate()
            ended = f"it took longer than {timeout:g} s" if late.is_set() else self.ending
            last = (errors.strip().splitlines() or [ended])[-1]
            raise PolicyProcessError(f"The policy's process did not start: {last}")

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    @property
    def ending(self) -> str:
        """How it ended, for people."""
        status = self._process.poll()
        if status is None:
            return "the policy's process runs"
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        return f"the policy's process was ended {how}"

    def close(self) -> None:
        """End it; kill it if it does not listen."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=3.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


def main() -> int:
    """Run the policy until standard input closes."""
    task = from_json(PolicyTask, json.loads(sys.stdin.readline()))
    bundle, clock = load_bundle(task.bundle), MonotonicClock()
    if bundle.digest != task.digest:
        raise InputError(
            f"The bundle in '{task.bundle}' has changed since it was checked: "
            f"got {bundle.digest[:8]}, allowed: {task.digest[:8]}"
        )
    contract = bundle.contract
    period = 1.0 / contract.action.rate
    endpoint = Endpoint.ipc(Path(task.sockets))
    with contextlib.ExitStack() as stack:
        senses = stack.enter_context(closing(open_senses(task.rig, contract, clock)))
        client = BridgeClient(
            endpoint, name=PROCESS, want=("policy",), contract=digest(contract), ticket=task.ticket
        )
        stack.enter_context(closing(client))
        builder = ObservationBuilder(
            contract, objects=senses.objects, eyes=senses.eyes, words=task.words
        )
        side = RemotePolicySide(client, task.limits, clock)
        horizon = 1 if task.hands_only else bundle.manifest.horizon
        policy = stack.enter_context(_policy(task, bundle))
        loop = PolicyLoop(side, builder, policy, period=period, horizon=horizon)
        pacer = Pacer(loop.tick, period=period, clock=clock)
        client.wait(5.0)
        thread = pacer.start("policy")
        sys.stdout.write(READY + "\n")
        sys.stdout.flush()
        sys.stdin.read()  # until the parent is gone
        pacer.stop()
        thread.join(timeout=1.0)
    return 0


@contextlib.contextmanager
def _policy(task: PolicyTask, bundle: Bundle) -> Iterator[Policy]:
    """The bundle's policy, one that goes on learning, or none."""
    if task.hands_only:
        yield Standing(bundle.contract.action.dim)
        return
    if task.learning.learner is None:
        yield bundle.policy
        return
    learned = task.learning.policy(bundle)
    with closing(Refresher(learned, task.learning.connect())):
        yield stacking(learned, bundle.contract)


if __name__ == "__main__":
    sys.exit(main())
