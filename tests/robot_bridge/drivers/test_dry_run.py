"""Arms without an arm pass the checks of every driver."""

from collections.abc import Callable

import numpy as np
import pytest
from driver_conformance import (
    CHECKS,
    Rig,
    check_an_arm_that_is_told_to_move_and_stands_faults,
    name_of,
)

from robot_bridge.clock import ManualClock
from robot_bridge.driver import ArmDriver
from robot_bridge.drivers.dry_run import DryRun, NullDriver
from robot_bridge.drivers.simulated import SimDriver
from scenes.robots import robot_named

HOME = (0.0, 0.195, 0.0, -2.43, 0.0, 2.62, 0.785)


class PointWorld:
    """A world whose arm is at once where its tool is sent, as far as one can see."""

    sim_dt, name = 0.005, "panda"

    def __init__(self) -> None:
        from robot_bridge.safety.kinematics import Chain

        self.chain = Chain(robot_named("panda"))
        self.q, self.opening = np.asarray(HOME), 0.08
        self.target, self.turned = self.chain.forward(self.q)

    def start(self, episode: int) -> None: ...

    def command(self, position: np.ndarray, quat: np.ndarray, width: float) -> None:
        self.target, self.turned, self.opening = np.asarray(position), np.asarray(quat), width

    def advance(self, substeps: int) -> None:
        self.q = self.chain.solve(self.target, self.turned, start=self.q).q

    def joints(self) -> tuple[np.ndarray, np.ndarray]:
        return self.q, np.zeros(7)

    def tool(self) -> tuple[np.ndarray, np.ndarray]:
        return self.chain.forward(self.q)

    def width(self) -> float:
        return self.opening

    def objects(self) -> dict:
        return {}

    def orientations(self) -> dict:
        return {}

    def pictures(self) -> dict:
        return {}

    def judge(self) -> tuple[bool, bool]:
        return False, False


def make_rig(kind: str) -> Rig:
    clock, robot = ManualClock(), robot_named("panda")
    makers: dict[str, Callable[[], ArmDriver]] = {
        "null": lambda: NullDriver(robot, HOME, clock),
        "sim": lambda: SimDriver(PointWorld(), clock),
        "dry": lambda: DryRun(NullDriver(robot, HOME, clock)),
    }
    return Rig(
        make=makers[kind], robot=robot, wait=clock.advance, clock=clock, follows=kind != "dry"
    )


@pytest.mark.parametrize("kind", ["null", "sim"])
@pytest.mark.parametrize("check", CHECKS, ids=name_of)
def test_conforms(check, kind: str) -> None:
    check(make_rig(kind))


def test_nothing_is_expected_of_an_arm_that_is_sent_nothing() -> None:
    check_an_arm_that_is_told_to_move_and_stands_faults(make_rig("dry"))
