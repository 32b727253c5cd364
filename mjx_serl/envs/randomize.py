"""Randomisation of the physics as data on a task: what differs from world to world.

A task lists terms in `randomize`, readings that are noisy in `noise`, how late commands and
observations come in `latency`. `variation` makes functions of them. The fields are those that
matter in manipulation (reference next_capabilities.md E; mjlab 1.6 has the longer list).
"""

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

from scenes.contract.errors import InputError, UnknownNameError
from scenes.contract.names import unknown_name
from scenes.contract.ranges import check_ranges, ranged

Operation = Literal["scale", "add", "abs"]
Distribution = Literal["uniform", "log_uniform", "gaussian"]
When = Literal["reset", "startup"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FieldRule:
    """What may be done to a randomised field.

    Attributes:
        unit: of its values.
        of: what a selector names: "geom", "body", "dof", "actuator", "joint" or "object".
        operations: allowed.
        above: its values stay above this; None without a limit.
        least: its values stay at or above this; None without a limit.
    """

    unit: str
    of: str
    operations: tuple[Operation, ...]
    above: float | None = None
    least: float | None = None


_ALL: tuple[Operation, ...] = ("scale", "add", "abs")
FIELDS: Mapping[str, FieldRule] = MappingProxyType(
    {
        "friction": FieldRule(unit="1", of="geom", operations=_ALL, least=0.0),
        "mass": FieldRule(unit="kg", of="body", operations=_ALL, above=0.0),
        "inertia": FieldRule(unit="1", of="body", operations=("scale",), above=0.0),
        "damping": FieldRule(unit="N m s/rad", of="dof", operations=_ALL, least=0.0),
        "armature": FieldRule(unit="kg m^2", of="dof", operations=_ALL, least=0.0),
        "frictionloss": FieldRule(unit="N m", of="dof", operations=_ALL, least=0.0),
        "gain": FieldRule(unit="N m/rad", of="actuator", operations=_ALL, above=0.0),
        "effort": FieldRule(unit="N m", of="joint", operations=_ALL, above=0.0),
        "size": FieldRule(unit="1", of="object", operations=("scale",), above=0.0),
        "position": FieldRule(unit="m", of="object", operations=("add",)),
        "yaw": FieldRule(unit="rad", of="object", operations=("add",)),
        "table_height": FieldRule(unit="m", of="table", operations=("add",)),
        "encoder_bias": FieldRule(unit="rad", of="joint", operations=("add",)),
    }
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Randomize:
    """One term: numbers of the selected things that each world draws for itself.

    "friction" is the sliding one of geoms. "mass" scales the inertia along. "inertia" stretches how
    the mass lies along the three principal axes, by a factor each, which no draw makes unphysical
    (a diagonal pseudo-inertia, Rucker and Wensing 2022). "gain" scales stiffness and damping of a
    position actuator together. "effort" is the limit of the force on a joint. "size" scales a
    solid with its mass at the same density, and puts it down as much higher. "position" moves an
    object from where an episode would begin with it, along x and y; "yaw" turns it; "table_height"
    raises the table with all that is on it. "encoder_bias" is what the joints' sensors read too
    much: controller and observation see it.

    Attributes:
        field: an entry of `FIELDS`.
        selector: whose: names of the scene's objects, "table", "gripper" (its pads, its
            joints or its actuator), "arm", or names in the model.
        range: low and high end.
        operation: what is drawn scales or is added to the value that the model has, or replaces it.
        distribution: "gaussian" is a normal one cut off at the range's ends, two deviations from
            its middle.
        when: drawn at each reset, or at "startup": then it belongs to the place that a world was
            prepared in, so that the same few machines come back.
        shared: one draw for all that is selected, else one each.
    """

    field: str
    selector: tuple[str, ...]
    range: tuple[float, float]
    operation: Operation = "scale"
    distribution: Distribution = "uniform"
    when: When = "reset"
    shared: bool = True

    def __post_init__(self) -> None:
        if self.field not in FIELDS:
            raise UnknownNameError(unknown_name("randomised field", self.field, list(FIELDS)))
        allowed = FIELDS[self.field].operations
        if self.operation not in allowed:
            raise InputError(f"{self}: operation '{self.operation}', allowed: {', '.join(allowed)}")
        low, high = self.range
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise InputError(f"{self}: range {self.range}, allowed: two numbers, the lower first")
        if self.distribution == "log_uniform" and low <= 0.0:
            raise InputError(f"{self}: log_uniform, allowed: a range above 0")
        for name, kind in (("distribution", Distribution), ("when", When)):
            if getattr(self, name) not in get_args(kind):
                raise UnknownNameError(unknown_name(name, getattr(self, name), get_args(kind)))
        if not self.selector or isinstance(self.selector, str):
            raise InputError(f"{self}: selector {self.selector!r}, allowed: a tuple of names")

    def __str__(self) -> str:
        of, (low, high) = ", ".join(self.selector), self.range
        return f"Randomize {self.field} of {of} ({self.operation} {low:g} to {high:g})"

    def check_value(self, nominal: float) -> None:
        """Raise InputError where a draw could make a value what it cannot be.

        Args:
            nominal: what the model has.
        """
        rule = FIELDS[self.field]
        ends = [operate(self.operation, nominal, end) for end in self.range]
        if rule.above is not None and min(ends) <= rule.above:
            raise InputError(
                f"{self}: the {self.field} would be {min(ends):g} {rule.unit}, allowed: above "
                f"{rule.above:g} {rule.unit}"
            )
        if rule.least is not None and min(ends) < rule.least:
            raise InputError(
                f"{self}: the {self.field} would be {min(ends):g} {rule.unit}, allowed: at least "
                f"{rule.least:g} {rule.unit}"
            )


def operate(operation: Operation, value: Any, drawn: Any) -> Any:
    """Return a value after an operation with what was drawn; of arrays too."""
    if operation == "scale":
        return value * drawn
    return value + drawn if operation == "add" else drawn + 0.0 * value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise:
    """Noise on one field of the observation, drawn anew for every number at every step.

    Attributes:
        field: name in the task's observation.
        std: standard deviation [the field's unit].
    """

    field: str
    std: float = ranged(0.0, least=0)

    def __post_init__(self) -> None:
        check_ranges(self, path=f"Noise of '{self.field}'")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Delay:
    """How late something comes, drawn for each episode.

    Attributes:
        low, high: least and longest delay [s].
        period: seconds after which another one is drawn; None keeps it for the episode.
        hold: probability that the old one is kept then.
    """

    low: float = ranged(0.0, least=0)
    high: float = ranged(0.0, least=0)
    period: float | None = ranged(None, above=0)
    hold: float = ranged(0.0, least=0, most=1)

    def __post_init__(self) -> None:
        check_ranges(self, path="Delay")
        if self.low > self.high:
            raise InputError(f"Delay: low {self.low:g} s, allowed: at most high {self.high:g} s")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latency:
    """How late what a policy says and sees comes.

    Attributes:
        action: from an action to the update of the controller that first follows it. Updates come
            at its `inner_rate`, so the first one at or after the delay does.
        observation: age of the numbers. It is a whole number of control steps; what is shorter
            changes nothing but when the action comes, so it belongs there.
        pictures: age of the pictures, likewise.
    """

    action: Delay | None = None
    observation: Delay | None = None
    pictures: Delay | None = None


ON_TIME = Latency()
