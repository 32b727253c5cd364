"""What each joint says of itself besides where it is: shown, recorded, and stopped in time."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from robot_bridge.control.control_loop import ControlLoop
from robot_bridge.driver import ArmDriver, DriverError, JointReadings, MonitoredArm
from robot_bridge.messages import Tick
from robot_bridge.reasons import Phase, Reason
from scenes.contract.errors import InputError, UnknownNameError
from scenes.contract.names import unknown_name

PERIOD = 1.0  # between two looks [s]; temperatures change within minutes


@dataclass(frozen=True, kw_only=True)
class JointLimit:
    """How much of something a joint may have.

    Attributes:
        unit: of what is limited.
        warn: magnitude that a person is told of.
        stop: magnitude that ends the episode as a fault.
    """

    unit: str
    warn: float = math.inf
    stop: float = math.inf


# By what a driver calls it. The vendors publish no numbers: these are ours, below what the arms'
# own firmware may stop at, and a joint that gets there in a session is being overloaded. A
# Franka's external torque is warned of at three quarters of the threshold of its reflex, which
# stops it (`FrankaConfig.collision_torque`). Currents and voltages are shown: what is much depends
# on the joint, and too little voltage is a fault that the arm reports itself.
QUANTITIES: Mapping[str, JointLimit] = {
    "motor_temperature": JointLimit(unit="°C", warn=60.0, stop=75.0),
    "driver_temperature": JointLimit(unit="°C", warn=65.0, stop=80.0),
    "external_torque": JointLimit(unit="N m", warn=15.0),
    "current": JointLimit(unit="A"),
    "voltage": JointLimit(unit="V"),
}


def parse_joint_limits(words: Sequence[str]) -> dict[str, JointLimit]:
    """Read NAME=WARN,STOP in the quantity's own unit; all quantities, those not named as they are.

    InputError or UnknownNameError says which word is none, and what is allowed.
    """
    limits = dict(QUANTITIES)
    for word in words:
        name, _, numbers = word.partition("=")
        if name not in QUANTITIES:
            raise UnknownNameError(unknown_name("quantity of a joint", name, QUANTITIES))
        try:
            warn, stop = (float(number) for number in numbers.split(","))
        except ValueError:
            warn = stop = math.nan
        if not 0.0 < warn <= stop:
            raise InputError(
                f"Joint limit '{word}' is not NAME=WARN,STOP with 0 < WARN <= STOP (inf for "
                f"never), for example {name}=60,75"
            )
        limits[name] = JointLimit(unit=QUANTITIES[name].unit, warn=warn, stop=stop)
    return limits


@dataclass
class JointMonitor:
    """A sink that looks at an arm's joints once a second.

    Attributes:
        arm: whose joints.
        names: of the joints.
        limits: by quantity.
        fault: called with why the arm has to stop.
        record: called with what was read, by quantity; it must not block.
    """

    arm: MonitoredArm
    names: Sequence[str]
    limits: Mapping[str, JointLimit]
    fault: Callable[[str], None]
    record: Callable[[Mapping[str, list[float]]], object]
    _due: float = field(default=-math.inf, init=False)
    _most: dict[str, tuple[float, str, str]] = field(default_factory=dict, init=False)
    _warned: set[tuple[str, str]] = field(default_factory=set, init=False)
    _warnings: list[str] = field(default_factory=list, init=False)

    def __call__(self, tick: Tick) -> None:
        """Look, where it is time to."""
        if tick.t < self._due:
            return
        self._due = tick.t + PERIOD
        try:
            readings = self.arm.joint_readings()
        except DriverError:
            return  # without a link there is no state either, which stops the arm
        self.record({name: np.round(row, 3).tolist() for name, row in readings.items()})
        for name, limit, joint, value in self._largest(readings):
            if name not in self._most or value > self._most[name][0]:
                self._most[name] = value, limit.unit, joint
            if value > limit.warn and (name, joint) not in self._warned:
                self._warned.add((name, joint))
                self._warnings.append(_excess(name, joint, value, limit.warn, limit.unit))
        why = self.excess(readings)
        if why is not None and tick.phase not in (Phase.DISARMED, Phase.FAULT):
            self.fault(why)

    def excess(self, readings: JointReadings | None = None) -> str | None:
        """Which joint has too much to be moved, None where none has.

        Raises DriverError where it is asked to read and there is no link.
        """
        for name, limit, joint, value in self._largest(readings or self.arm.joint_readings()):
            if value > limit.stop:
                return _excess(name, joint, value, limit.stop, limit.unit)
        return None

    def warnings(self) -> list[str]:
        """What a person has not been told yet, each joint and quantity once."""
        told, self._warnings = self._warnings, []
        return told

    def summary(self) -> str:
        """The most of each quantity so far, in a line; "" before the first look."""
        return ", ".join(
            f"{name.replace('_', ' ')} {value:.3g} {unit} ({joint})"
            for name, (value, unit, joint) in self._most.items()
        )

    def _largest(self, readings: JointReadings) -> list[tuple[str, JointLimit, str, float]]:
        """Quantity, its limit, the joint with the most of it, and how much."""
        found = []
        for name, row in readings.items():
            sizes = np.nan_to_num(np.abs(row), nan=0.0)  # what is not measured is no danger
            worst = int(sizes.argmax())
            limit = self.limits.get(name, JointLimit(unit=""))
            found.append((name, limit, self.names[worst], float(sizes[worst])))
        return found


def watch_joints(
    control: ControlLoop,
    driver: ArmDriver,
    limits: Mapping[str, JointLimit],
    record: Callable[..., object],
) -> JointMonitor | None:
    """Add a monitor to a control loop; None where the arm says nothing of its joints.

    Args:
        control: which it stops, and which is not armed where a joint has too much.
        driver: of the arm, also where nothing is sent to it.
        limits: by quantity.
        record: called with the name "joints" and what was read, by quantity.
    """
    if not isinstance(driver, MonitoredArm):
        return None
    supervisor = control.parts.supervisor
    monitor = JointMonitor(
        arm=driver,
        names=control.parts.contract.robot.joint_names,
        limits=limits,
        fault=lambda why: supervisor.fault(Reason.JOINT_OVERLOADED, detail=why),
        record=lambda readings: record("joints", **readings),
    )
    control.sinks += (monitor,)
    supervisor.require(lambda state: monitor.excess())
    return monitor


def _excess(name: str, joint: str, value: float, allowed: float, unit: str) -> str:
    what = name.replace("_", " ")
    return f"{joint}: {what} {value:.3g} {unit}, allowed {allowed:g} {unit}"
