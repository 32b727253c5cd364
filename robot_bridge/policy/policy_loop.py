"""The policy's loop: observe the newest tick, choose actions, offer them, at the actions' rate.

A chunk of actions is offered once and played to its end, as in training, before the policy is
asked for the next. While it plays, its command goes with what is seen at each of its actions, so
that a recording holds for each action what was observed before it.
"""

import dataclasses
import logging
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robot_bridge.clock import Clock
from robot_bridge.messages import Command, Notice, Tick
from robot_bridge.policy.observation import Obs, implausible
from robot_bridge.policy.policy import Policy
from robot_bridge.reasons import Reason
from robot_bridge.safety.limits import Limits
from robot_bridge.safety.supervisor import CONTROLLED
from scenes.contract.specs import ObsSpec

_log = logging.getLogger(__name__)


class ControlSide(Protocol):
    """The control loop as a policy sees it: itself, or its other end across processes."""

    @property
    def clock(self) -> Clock:
        """The time it lives in."""
        ...

    @property
    def limits(self) -> Limits:
        """Ages among them."""
        ...

    @property
    def latest(self) -> Tick | None:
        """The newest tick."""
        ...

    def offer(self, command: Command) -> None:
        """Propose actions."""
        ...

    def notice(self, notice: Notice) -> None:
        """Say that nothing can be proposed."""
        ...

    def fault(self, reasons: Reason) -> None:
        """Stop the arm for good."""
        ...


class Builder(Protocol):
    """What makes observations; see `robot_bridge.policy.observation.ObservationBuilder`."""

    @property
    def spec(self) -> ObsSpec:
        """What is observed."""
        ...

    def build(self, tick: Tick) -> tuple[Obs, float]:
        """Return the observation at a tick and the time of its oldest part [s]."""
        ...


class PolicyLoop:
    """Observes the newest tick, asks the policy, offers its actions.

    Args:
        side: whose ticks are observed and which takes the actions.
        builder: makes observations.
        policy: chooses actions [H, A].
        period: of an action [s].
        horizon: actions of each answer that are played before the next is asked for; what comes
            after them is played only where the next answer is late.
    """

    def __init__(
        self,
        side: ControlSide,
        builder: Builder,
        policy: Policy,
        *,
        period: float,
        horizon: int = 1,
    ) -> None:
        self.side, self.builder, self.policy, self.period = side, builder, policy, period
        self.horizon = horizon
        self._seq = self._left = 0
        self._running = self._failed = False
        self._played: Command | None = None

    def tick(self, deadline: float | None = None) -> None:
        """Act once, if there is anything to act on."""
        del deadline  # a late action is still the answer to the newest tick
        tick = self.side.latest
        running = tick is not None and tick.phase in CONTROLLED
        if running and not self._running:
            self.policy.reset()
            self._failed, self._left = False, 0
        self._running = running
        if tick is None or not running:
            return
        if self._left:
            self._left -= 1
            self._observe(tick)
            return
        reason = self._act(tick)
        if reason:
            self.side.notice(Notice(t=self.side.clock.now(), reasons=reason))

    def _act(self, tick: Tick) -> Reason:
        try:
            obs, seen = self.builder.build(tick)
        except LookupError as missing:
            self._say_once("Nothing to observe: %s; the arm holds", missing)
            return Reason.OBSERVATION_STALE
        now, limits = self.side.clock.now(), self.side.limits
        if now - seen > limits.observation_fault_age:
            self.side.fault(Reason.OBSERVATION_STALE)
        if now - seen > limits.observation_max_age:
            return Reason.OBSERVATION_STALE
        wrong = implausible(obs, self.builder.spec)
        if wrong is not None:
            self._say_once("What is observed cannot be: %s; the arm holds", wrong)
            return Reason.OBSERVATION_BAD
        try:
            actions = self.policy.act(obs)
        except Exception:  # whatever a policy does, the arm holds
            self._say_once("The policy failed; the arm holds", exc_info=True)
            return Reason.POLICY_ERROR
        self._left = self.horizon - 1
        self._played = self._command(actions, min(seen, now), obs)
        self.side.offer(self._played)
        return Reason.NONE

    def _observe(self, tick: Tick) -> None:
        """Tell what is seen while a chunk plays; what is missing now may be there for the next."""
        try:
            obs, _ = self.builder.build(tick)
        except LookupError:
            return
        if self._played is not None and implausible(obs, self.builder.spec) is None:
            # The number is known already, and no time is left to execute it: it only shows.
            self.side.offer(dataclasses.replace(self._played, obs=obs, valid_for=0.0))

    def _say_once(self, text: str, *args: object, exc_info: bool = False) -> None:
        """Log the first trouble of an episode, not ten lines a second."""
        if not self._failed:
            _log.error(text, *args, exc_info=exc_info)
        self._failed = True

    def _command(self, actions: NDArray[np.floating], seen: float, obs: Obs) -> Command:
        self._seq += 1
        return Command(
            seq=self._seq,
            t=seen,
            actions=actions,
            dt=self.period,
            valid_for=self.side.limits.command_max_age + (len(actions) - 1) * self.period,
            obs=obs,
        )
