"""The state machine: DISARMED -> ARMED -> RUN <-> HOLD -> FAULT, and who may lead it where.

Going up needs a person's token: `confirm` makes one from what the person has typed, `arm` and
`recover` use it up. Falling down needs nobody. HOLD ends by itself when its cause does, since the
arm is then powered, watched and still; FAULT never does.
"""

import collections
import hmac
import threading
from collections.abc import Callable
from typing import Literal

from robot_bridge.clock import Clock
from robot_bridge.driver import ArmDriver, ArmState, ArmToken, DriverError
from robot_bridge.reasons import Phase, Reason, describe

CONTROLLED = (Phase.RUN, Phase.HOLD)


class NotAllowedError(RuntimeError):
    """The state machine refuses; the message says what has to happen first."""


class Supervisor:
    """Phase, its cause, and the tokens.

    Args:
        driver: enabled, stopped and recovered by nobody else.
        clock: for the window of recoveries.
        phrase: what a person has to type in order to arm or recover, for example the first
            characters of the bundle's digest and the robot's serial.
        recoveries: allowed within `recovery_window` [s].
        audit: is told of every arming, fault and recovery, with facts.
    """

    def __init__(
        self,
        driver: ArmDriver,
        clock: Clock,
        *,
        phrase: str,
        recoveries: int = 3,
        recovery_window: float = 600.0,
        audit: Callable[..., None] | None = None,
    ) -> None:
        self.phrase = phrase
        self.phase = Phase.DISARMED
        self.cause = Reason.NOT_CONFIRMED
        self.detail = ""
        self._driver, self._clock = driver, clock
        self._window = recovery_window
        self._audit = audit or (lambda event, **facts: None)
        self._recovered: collections.deque[float] = collections.deque(maxlen=recoveries)
        self._tokens: set[str] = set()
        self._conditions: list[Callable[[ArmState], str | None]] = []
        # Emergency stops come from other threads than ticks.
        self._lock = threading.RLock()

    def confirm(self, purpose: Literal["arm", "recover"], *, by: str, typed: str) -> ArmToken:
        """Return a token for one use; NotAllowedError unless `typed` is the phrase."""
        if not hmac.compare_digest(typed.strip().encode(), self.phrase.encode()):
            raise NotAllowedError(f"To {purpose} the arm, type exactly: {self.phrase}")
        token = ArmToken(purpose=purpose, by=by)
        self._tokens.add(token.nonce)
        return token

    def require(self, condition: Callable[[ArmState], str | None]) -> None:
        """Arm only where this says None of the arm's state, and not why it must not be armed."""
        self._conditions.append(condition)

    def arm(self, token: ArmToken) -> None:
        """DISARMED -> ARMED; NotAllowedError without a fresh token or where a condition is not met.

        DriverError from the arm.
        """
        with self._lock:
            self._require("arm", Phase.DISARMED)
            self._use(token, "arm")
            state = self._driver.state()
            for condition in self._conditions:
                why_not = condition(state)
                if why_not is not None:
                    raise NotAllowedError(why_not)
            self._driver.arm(token)
            self._driver.hold()
            self._enter(Phase.ARMED, Reason.NONE)
            self._audit("armed", by=token.by)

    def require_armed(self) -> None:
        """Raise NotAllowedError, saying what comes first, unless ARMED."""
        self._require("move", Phase.ARMED)

    def start(self) -> None:
        """ARMED -> RUN."""
        with self._lock:
            self._require("start", Phase.ARMED)
            self._enter(Phase.RUN, Reason.NONE)

    def pause(self) -> None:
        """RUN or HOLD -> ARMED: the arm stands, nobody's commands are executed."""
        with self._lock:
            if self.phase in CONTROLLED:
                self._driver.hold()
                self._enter(Phase.ARMED, Reason.NONE)

    def hold(self, cause: Reason) -> None:
        """RUN -> HOLD; adds to the cause of a HOLD."""
        with self._lock:
            if self.phase in CONTROLLED:
                self._enter(Phase.HOLD, cause)

    def resume(self) -> None:
        """HOLD -> RUN, when what caused it is over."""
        with self._lock:
            if self.phase is Phase.HOLD:
                self._enter(Phase.RUN, Reason.NONE)

    @property
    def why(self) -> str:
        """The cause of the phase in words, with what the arm or its driver said of it."""
        return f"{describe(self.cause)}: {self.detail}" if self.detail else describe(self.cause)

    def fault(self, cause: Reason, *, protective: bool = False, detail: str = "") -> None:
        """Stop the arm and stay stopped, from any phase; the first cause is kept.

        Args:
            cause: why.
            protective: use the arm's own stop (an emergency) rather than a powered standstill.
            detail: what the arm or its driver said, in its own words; the first is kept.
        """
        with self._lock:
            known = self.phase is Phase.FAULT
            self._enter(Phase.FAULT, self.cause | cause if known else cause)
            self.detail = self.detail or _one_line(detail)
            self._tokens.clear()
            if not known:
                self._audit("fault", cause=describe(cause), detail=self.detail)
            if not known or protective:
                self._stop("protective" if protective else "soft")

    def recover(self, token: ArmToken) -> None:
        """FAULT -> DISARMED, after a person has looked; NotAllowedError when it happens too often.

        The arm must be armed again afterwards.
        """
        with self._lock:
            self._require("recover", Phase.FAULT)
            now, spent = self._clock.now(), self._recovered
            if len(spent) == spent.maxlen and now - spent[0] < self._window:
                self.cause |= Reason.RECOVERY_LIMIT
                raise NotAllowedError(
                    f"{spent.maxlen} recoveries within {self._window / 60:g} minutes are enough; "
                    "find out why, then start the bridge again"
                )
            self._use(token, "recover")
            spent.append(now)
            self._driver.recover(token)
            self._enter(Phase.DISARMED, Reason.NOT_CONFIRMED)
            self._audit("recovered", by=token.by)

    def disarm(self) -> None:
        """End control softly; a FAULT stays one, and what is disarmed is left alone."""
        with self._lock:
            if self.phase not in (Phase.FAULT, Phase.DISARMED):
                self._stop("soft")
                self._enter(Phase.DISARMED, Reason.NOT_CONFIRMED)

    # -- inside ----------------------------------------------------------------------------------

    def _enter(self, phase: Phase, cause: Reason) -> None:
        self.phase, self.cause = phase, cause
        if phase is not Phase.FAULT:
            self.detail = ""

    def _require(self, what: str, *allowed: Phase) -> None:
        if self.phase not in allowed:
            names = " or ".join(phase.value for phase in allowed)
            raise NotAllowedError(
                f"Cannot {what} while {self.phase.value} ({self.why}); the arm must be {names}"
            )

    def _use(self, token: ArmToken, purpose: str) -> None:
        fresh = isinstance(token, ArmToken) and token.nonce in self._tokens
        if not fresh or token.purpose != purpose:
            raise NotAllowedError(f"To {purpose} the arm takes a fresh token from confirm()")
        self._tokens.discard(token.nonce)

    def _stop(self, kind: Literal["soft", "protective"]) -> None:
        try:
            self._driver.stop(kind)
        except DriverError:
            # The arm is out of reach: its own watchdogs stop it, and the phase is already FAULT.
            self.cause |= Reason.DRIVER_ERROR


def _one_line(text: str) -> str:
    """What a log and a terminal can show of words that come from outside."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))[:300]
