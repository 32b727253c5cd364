"""Where drivers are registered, and what one is made from; the files of this room are found by
themselves, those of a user's package once it is imported.
"""

from collections.abc import Callable
from dataclasses import dataclass

from robot_bridge.clock import Clock
from robot_bridge.driver import ArmDriver
from scenes.contract.errors import InputError
from scenes.contract.policy_contract import Contract
from scenes.contract.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Connection:
    """How an arm is reached, and for whose policy.

    Attributes:
        name: the driver's registered name.
        address: host, CAN channel or URL, as the driver reads it; empty for its default.
        realtime_kernel: refuse to drive from a kernel that is not PREEMPT_RT.
        gripper_readings: what it says for a closed and an open gripper, where that is not known.
        contract: of the policy that will act.
        clock: stamps readings.
    """

    name: str
    address: str = ""
    realtime_kernel: bool = True
    gripper_readings: tuple[float, float] | None = None
    contract: Contract
    clock: Clock

    def require_address(self, what: str) -> str:
        """Return the address; ValueError says what it has to be where none is given."""
        if not self.address:
            raise InputError(f"--robot {self.name} needs --address, {what}")
        return self.address


DriverMaker = Callable[[Connection], ArmDriver]


@dataclass(frozen=True, kw_only=True)
class DriverEntry:
    """A registered driver.

    Attributes:
        make: returns the driver; it opens nothing and needs no SDK before `connect`.
        summary: what it drives and how, for `--help`.
        state_max_age: of its readings, where they come slower than the arm's own link would bring
            them [s]; None keeps the limit of `default_limits`.
    """

    make: DriverMaker
    summary: str
    state_max_age: float | None = None


DRIVERS: Registry[DriverEntry] = Registry("robot", found_in="robot_bridge.drivers")


def register_driver(
    name: str, *, summary: str, state_max_age: float | None = None
) -> Callable[[DriverMaker], DriverMaker]:
    """Return a decorator that registers the function under `--robot NAME`."""

    def add(make: DriverMaker) -> DriverMaker:
        entry = DriverEntry(make=make, summary=summary, state_max_age=state_max_age)
        DRIVERS.register(name)(entry)
        return make

    return add
