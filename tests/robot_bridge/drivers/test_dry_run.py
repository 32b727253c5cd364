"""Arms without an arm pass the checks of every driver."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from driver_conformance import (
    CHECKS,
    Rig,
    check_an_arm_that_is_told_to_move_and_stands_faults,
    confirm,
    governed,
    name_of,
)

from mjx_serl.sysid.driven_arm import DrivenArm, Noise
from robot_bridge.clock import ManualClock
from robot_bridge.control.session import HOME_TOLERANCE, LockStep, Loop, Session, Tally
from robot_bridge.driver import ArmDriver
from robot_bridge.drivers.dry_run import DryRun, NullDriver
from robot_bridge.drivers.simulated import SimDriver
from robot_bridge.drivers.simulated_joints import SimJointDriver
from robot_bridge.safety.kinematics import Chain, matrix_to_quat
from scenes.robots import robot_named

NOISELESS = Noise(position=0.0, velocity=0.0)
HOME = (0.0, 0.195, 0.0, -2.43, 0.0, 2.62, 0.785)


class PointWorld:
    """A world whose arm is at once where its tool is sent, as far as one can see."""

    sim_dt, name = 0.005, "panda"

    def __init__(self) -> None:
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
        "joints": lambda: SimJointDriver(DrivenArm(robot, noise=NOISELESS), clock),
        "dry": lambda: DryRun(NullDriver(robot, HOME, clock)),
    }
    return Rig(
        make=makers[kind], robot=robot, wait=clock.advance, clock=clock, follows=kind != "dry"
    )


@pytest.mark.parametrize("kind", ["null", "sim", "joints"])
@pytest.mark.parametrize("check", CHECKS, ids=name_of)
def test_conforms(check, kind: str) -> None:
    check(make_rig(kind))


def test_nothing_is_expected_of_an_arm_that_is_sent_nothing() -> None:
    check_an_arm_that_is_told_to_move_and_stands_faults(make_rig("dry"))


def test_an_arm_that_keeps_its_elbow_is_home_when_its_tool_is() -> None:
    """franka-rs and SERL's servers take poses; a home with another elbow is never reached."""
    clock = ManualClock()
    world = PointWorld()
    rig = Rig(make=lambda: SimDriver(world, clock), robot=robot_named("panda"), clock=clock)
    rig = dataclasses.replace(rig, wait=clock.advance)
    chain, there = Chain(rig.robot), np.array(HOME)
    there[0] += 0.1
    with rig.connected() as driver:
        loop = governed(rig, driver)
        confirm(loop, rig)
        idle = Loop(lambda deadline: None, 0.1, "policy")
        session = Session(loop, LockStep(loop, idle, clock), Tally(), lambda: None)
        # The same tool, an elbow 0.1 rad away: turned in the nullspace of the tool's pose.
        pose, jac = chain.pose_and_jacobian(there)
        free = np.linalg.svd(jac)[2][-1]
        home = chain.solve(pose[:, 3], matrix_to_quat(pose[:, :3]), start=there + 0.1 * free).q
        assert np.abs(home - there).max() > 2 * HOME_TOLERANCE
        world.advance = lambda substeps: _follow(world, chain)
        session.home(home)
        reached = driver.state()
        assert np.linalg.norm(reached.position - pose[:, 3]) < 0.005
        assert np.abs(reached.q - home).max() > HOME_TOLERANCE


def _follow(world: PointWorld, chain: Chain) -> None:
    """To the pose, by the shortest way of the joints: the elbow stays where it was."""
    world.q = chain.solve(world.target, world.turned, start=world.q, tolerance=1e-6).q
