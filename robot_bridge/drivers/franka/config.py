"""How to reach and to control a Franka, whichever library does it."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from robot_bridge.compliance import Compliance
from robot_bridge.driver import DriverError
from robot_bridge.drivers.hosts import is_this_machine
from scenes.contract.errors import InputError
from scenes.contract.extras import require


@dataclass(frozen=True, kw_only=True)
class FrankaConfig:
    """Address, impedance and thresholds; ValueError for what leaves its range.

    The nullspace turns the elbow to the target's joint positions (ours; SERL 0.2, and 100 for joint
    1), so that homing ends in one posture. Above the collision thresholds the robot stops itself:
    20 as libfranka's examples, 40 for contact tasks.

    Attributes:
        host: of the control box.
        realtime: refuse a kernel that is not PREEMPT_RT.
        compliance: until another is asked for.
        nullspace_stiffness: [N m/rad].
        nullspace_torque: at most [N m].
        max_delta_tau: largest change of a torque per millisecond [N m].
        collision_torque: [N m].
        collision_force: [N].
        gripper_speed: [m/s].
        grasp_below: widths that are grasps [m].
    """

    host: str
    realtime: bool = True
    compliance: Compliance = field(default_factory=Compliance)
    nullspace_stiffness: float = 80.0
    nullspace_torque: float = 10.0
    max_delta_tau: float = 1.0
    collision_torque: float = 20.0
    collision_force: float = 20.0
    gripper_speed: float = 0.1
    grasp_below: float = 0.01

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and 0.0 < value <= most):
                raise InputError(f"FrankaConfig: {name} is {value}, allowed above 0, up to {most}")

    @property
    def simulated(self) -> bool:
        """Whether the host is this machine, where no control box can be."""
        return is_this_machine(self.host)


# Range of the nullspace's stiffness by SERL's controller (serl_family.md 3.2); robot_bridge.md 3
# rows 10 and 11 for torque rate and thresholds; 0.1 m/s is half of what the hand can do.
_MOST = {
    "nullspace_stiffness": 100.0,
    "nullspace_torque": 10.0,
    "max_delta_tau": 1.0,
    "collision_torque": 40.0,
    "collision_force": 40.0,
    "gripper_speed": 0.2,
    "grasp_below": 0.08,
}

# What a vendor's message contains, and what a person can do about it.
_HINTS = (
    ("incompatible", "the library and the robot's system version differ; see the driver's head"),
    ("refused", "activate FCI in Desk, and check that nobody else is connected"),
    ("timeout", "check the cable, the address, and that the robot is switched on"),
    ("host not found", "check the address of the control box"),
    ("no route", "check the cable and the address of the control box"),
    ("realtime", "run a PREEMPT_RT kernel, or say realtime=False where nothing can be hurt"),
    ("scheduling", "allow real-time scheduling (limits.conf), or say realtime=False"),
)


@contextlib.contextmanager
def told_as_driver_error(what: str) -> Iterator[None]:
    """Turn whatever a vendor's library raises into one line that says what a person can do."""
    try:
        yield
    except DriverError:
        raise
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        hints = [hint for word, hint in _HINTS if word in said.lower()]
        raise DriverError(
            f"Cannot {what}: {said}" + "".join(f"; {h}" for h in hints[:1])
        ) from error


def load_library(module: str) -> Any:
    """Import franky or franka (franka-rs); DriverError where it is not installed."""
    try:
        return require(module, "franka")
    except ImportError as error:
        raise DriverError(str(error)) from None
