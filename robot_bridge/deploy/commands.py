"""What deploy.py does besides reading its command line: talking, errors in one line, the result."""

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from robot_bridge.cameras.camera import CameraError
from robot_bridge.deploy.deployment import DeployConfig, Deployment, Talk
from robot_bridge.deploy.ledger import state_folder
from robot_bridge.deploy.policy_process import PolicyProcessError
from robot_bridge.deploy.rigs import RigConfig, RigMaker, build_rig, with_cameras
from robot_bridge.driver import DriverError
from robot_bridge.learning.workcell import read_workcell
from robot_bridge.openpi.client import RemotePolicyError
from robot_bridge.policy.bundle import Bundle
from robot_bridge.safety.command_check import require_runnable
from robot_bridge.safety.supervisor import NotAllowedError
from scenes.contract import command_line as refusals
from scenes.contract.operator import OperatorError
from scenes.contract.success_rate import success_line

# What the world outside may do: an arm, a camera, a device, a process, a person.
_FAILURES = (
    DriverError,
    NotAllowedError,
    OperatorError,
    CameraError,
    PolicyProcessError,
    RemotePolicyError,
    TimeoutError,
)


def deploy(
    bundle: Bundle, rig: RigConfig, options: DeployConfig, robots: Mapping[str, RigMaker]
) -> int:
    """Build the rig, run the episodes, say how they went; returns the exit status."""
    state, learning = state_folder(), options.learning
    # Of one run: what another's learner has not taken is not this one's.
    spool = state / "spool" / f"{learning.actor_name}-{bundle.digest[:8]}"
    options = dataclasses.replace(
        options,
        ledger=options.ledger or state / "ledger.json",
        audit=options.audit or state / "audit.jsonl",
        learning=dataclasses.replace(learning, spool=learning.spool or spool),
    )
    if options.workcell is not None:
        rig = with_cameras(rig, read_workcell(options.workcell).cameras, bundle.contract)
    talk = terminal()
    require_runnable(bundle.contract.action)  # before what it observes is asked for
    deployment = Deployment(options, bundle, build_rig(rig, bundle.contract, robots), talk)
    with Interruptible(_say):
        reports = deployment.run()
    measured = bundle.manifest.measured
    _say(success_line(sum(report.success for report in reports), len(reports)))
    if deployment.turns.told is not None:
        _say(deployment.turns.told)
    if measured is not None:
        _say(
            f"simulator, at the end of training: {measured.success_rate:.1%} "
            f"of {measured.episodes} episodes"
        )
    for name, timing in deployment.timings.items():
        _say(f"{name} loop: {timing.describe()}")
    if deployment.joints is not None:
        _say(f"joints, at most: {deployment.joints.summary() or 'nothing was read'}")
    if deployment.learned is not None:
        _say(deployment.learned)
    if deployment.lost is not None:
        _say(f"CAUTION  {deployment.lost}")
    return int(deployment.lost is not None or any(report.ending == "fault" for report in reports))


# Ctrl-C, kill, and a terminal or an ssh connection that has gone: nobody is there any more to see
# what the arm does.
_ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Interruptible:
    """The first Ctrl-C, SIGTERM or SIGHUP ends the session, later ones only say that it is ending.

    Letting go of an arm takes moments, and must not be cut short by an impatient person.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._asked = say, False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruptible":
        for number in _ENDING:
            if signal.getsignal(number) is signal.SIG_IGN:
                continue  # as nohup asks
            self._before[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # Nothing is left to interrupt but the exit.
            signal.signal(number, signal.SIG_IGN if self._asked else handler or signal.SIG_DFL)

    def _interrupt(self, number: int, frame: object) -> None:
        if self._asked:
            with contextlib.suppress(OSError):  # the terminal may be gone
                self._say("The arm is being let go; a moment.")
            return
        self._asked = True
        raise KeyboardInterrupt


def guarded(main: Callable[[], int]) -> int:
    """Run a command; what a person can mend is said in one line, not as a traceback."""
    return refusals.guarded(
        main, failures=_FAILURES, interrupted="Interrupted; nothing is commanded any more."
    )


def terminal() -> Talk:
    """A person at this terminal."""
    return Talk(_say, _ask)


def _ask(prompt: str) -> str:
    try:
        return input(prompt)
    except EOFError:
        raise NotAllowedError(
            "Nobody answers at this terminal; a real arm needs a person"
        ) from None


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
