"""One policy on several arms: what it sees of each, and the part of its action that each gets.

Every arm keeps its own control loop, gate and governor; nothing here limits or steers. The policy's
loop (`robot_bridge.policy.policy_loop.PolicyLoop`) sees `Pair` as its one control side and
`PairBuilder` as its one builder. Arms have roles, for example "left" and "right", in the order in
which the action holds their parts; an observation is named "left/ee_position".

No arm goes on alone: while one of them does not take commands nothing is offered to any, so that
the others' commands run out and they hold.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robot_bridge.clock import Clock
from robot_bridge.control.control_loop import ControlLoop
from robot_bridge.messages import Command, Notice, Tick
from robot_bridge.policy.observation import Obs, ObservationBuilder
from robot_bridge.reasons import Reason
from robot_bridge.safety.limits import Limits
from robot_bridge.safety.supervisor import CONTROLLED
from scenes.contract.policy_contract import Contract
from scenes.contract.specs import ObsSpec


def split_action(
    contracts: Mapping[str, Contract], actions: NDArray[np.floating]
) -> dict[str, NDArray[np.floating]]:
    """Return each role's part of actions [H, A], in the order of the contracts.

    ValueError where there are not as many entries as all arms together have.
    """
    sizes = {role: contract.action.dim for role, contract in contracts.items()}
    if actions.ndim != 2 or actions.shape[1] != sum(sizes.values()):
        wanted = ", ".join(f"{role} {size}" for role, size in sizes.items())
        raise ValueError(f"Actions are {[*actions.shape]}, allowed: [H, A] with A of {wanted}")
    ends = np.cumsum(list(sizes.values()))
    return dict(zip(sizes, np.split(actions, ends[:-1], axis=1), strict=True))


def role_name(role: str, name: str) -> str:
    """How an observation of one of several arms is named."""
    return f"{role}/{name}"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Several arms as a policy's one control side.

    Attributes:
        controls: each arm's loop, by role.
        clock: their common clock.
    """

    controls: Mapping[str, ControlLoop]
    clock: Clock

    def __post_init__(self) -> None:
        rates = {c.parts.contract.action.rate for c in self.controls.values()}
        if len(rates) != 1:
            raise ValueError(f"Pair: arms take actions at {sorted(rates)} Hz, allowed: one rate")

    @property
    def contracts(self) -> Mapping[str, Contract]:
        """What each arm's part of the policy takes for granted."""
        return {role: control.parts.contract for role, control in self.controls.items()}

    @property
    def limits(self) -> Limits:
        """The first arm's, with the shortest ages of all."""
        every = [control.limits for control in self.controls.values()]
        ages = ("observation_max_age", "observation_fault_age", "command_max_age")
        shortest = {age: min(getattr(limits, age) for limits in every) for age in ages}
        return dataclasses.replace(every[0], **shortest)

    @property
    def latest(self) -> Tick | None:
        """The tick of an arm that takes no commands, if one does not; else the oldest."""
        ticks = [control.latest for control in self.controls.values()]
        known = [tick for tick in ticks if tick is not None]
        if len(known) < len(ticks):
            return None
        return min(known, key=lambda tick: (tick.phase in CONTROLLED, tick.t))

    def offer(self, command: Command) -> None:
        """Offer every arm its part, with what was observed of it."""
        parts = split_action(self.contracts, command.actions)
        for role, control in self.controls.items():
            obs = None if command.obs is None else _of_role(role, command.obs)
            control.offer(dataclasses.replace(command, actions=parts[role], obs=obs))

    def notice(self, notice: Notice) -> None:
        """Tell every arm."""
        for control in self.controls.values():
            control.notice(notice)

    def fault(self, reasons: Reason) -> None:
        """Stop all arms for good."""
        for control in self.controls.values():
            control.fault(reasons)

    def sense(self, deadline: float | None = None) -> None:
        """Read all arms; for lock-step."""
        for control in self.controls.values():
            control.sense(deadline)

    def act(self) -> None:
        """Command all arms; for lock-step."""
        for control in self.controls.values():
            control.act()


class PairBuilder:
    """Observations of several arms as one.

    Args:
        pair: whose newest ticks are observed.
        builders: of each arm's own observation, by role.
    """

    def __init__(self, pair: Pair, builders: Mapping[str, ObservationBuilder]) -> None:
        if list(builders) != list(pair.controls):
            raise ValueError(
                f"PairBuilder: builders of {', '.join(builders)}, allowed: of "
                f"{', '.join(pair.controls)}, in this order"
            )
        self._pair, self._builders = pair, dict(builders)

    @property
    def spec(self) -> ObsSpec:
        """What is observed, the role before each name."""
        return ObsSpec(
            fields=tuple(
                dataclasses.replace(field, name=role_name(role, field.name))
                for role, builder in self._builders.items()
                for field in builder.spec.fields
            )
        )

    def build(self, tick: Tick) -> tuple[Obs, float]:
        """Return the observation of all arms and the time of its oldest part [s].

        Every arm's own newest tick is observed; `tick` says only that there is one.
        """
        del tick
        every: Obs = {}
        times = []
        for role, builder in self._builders.items():
            newest = self._pair.controls[role].latest
            if newest is None:
                raise LookupError(f"The {role} arm has not been read yet")
            obs, seen = builder.build(newest)
            every |= {role_name(role, name): value for name, value in obs.items()}
            times.append(seen)
        return every, min(times)


def _of_role(role: str, obs: Mapping[str, NDArray]) -> Obs:
    prefix = role_name(role, "")
    return {n.removeprefix(prefix): x for n, x in obs.items() if n.startswith(prefix)}
