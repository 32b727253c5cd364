"""Two arms under one policy: each gets its part, and neither goes on alone."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
from bench_arm import BenchArm, bench_contract

from mjx_serl.envs.control.controller import ControlConfig
from mjx_serl.run.simulated_arms import SimulatedArms
from robot_bridge.clock import ManualClock
from robot_bridge.control.arbiter import Arbiter
from robot_bridge.control.control_loop import ControlLoop, Parts
from robot_bridge.control.session import CONTROL_PERIOD, LockStep, Loop
from robot_bridge.deploy.pair import Pair, PairBuilder, split_action
from robot_bridge.driver import ArmDriver
from robot_bridge.drivers.simulated import SimDriver, SimObjects
from robot_bridge.policy.observation import FixedObjects, ObjectSource, ObservationBuilder
from robot_bridge.policy.policy_loop import PolicyLoop
from robot_bridge.reasons import Phase, Reason
from robot_bridge.safety.command_check import ActionGate
from robot_bridge.safety.governor import Governor
from robot_bridge.safety.limits import default_limits
from robot_bridge.safety.supervisor import Supervisor
from scenes.build import build_scene
from scenes.contract.policy_contract import Contract
from scenes.layouts import two_arms

ROLES = ("left", "right")


class Reaching:
    """Goes to a place beside what each arm sees as its cube; what it saw is kept."""

    def __init__(self, roles: tuple[str, ...]) -> None:
        self.roles, self.seen = roles, []
        self.offset = np.float32([0, 0, 0.05])

    def reset(self) -> None:
        self.seen.clear()

    def act(self, obs: Mapping[str, np.ndarray]) -> np.ndarray:
        self.seen.append(dict(obs))
        parts = []
        for role in self.roles:
            lag = obs[f"{role}/ee_target"] - obs[f"{role}/ee_position"]
            way = obs[f"{role}/cube_from_ee"] + self.offset - lag
            parts += [(way / 0.025).clip(-1, 1), np.float32([-1.0])]
        return np.concatenate(parts)[None].astype(np.float32)


class Two:
    """Two arms, armed and begun, a policy over both, and the clock that all share."""

    def __init__(
        self, contract: Contract, drivers: list[ArmDriver], objects: list[ObjectSource], clock
    ) -> None:
        self.clock, self.policy = clock, Reaching(ROLES)
        self.controls = {}
        builders = {}
        for role, driver, source in zip(ROLES, drivers, objects, strict=True):
            limits = default_limits(contract.robot)
            driver.connect()
            supervisor = Supervisor(driver, clock, phrase=role)
            parts = Parts(
                contract=contract,
                limits=limits,
                driver=driver,
                governor=Governor(contract.robot, limits, dt=CONTROL_PERIOD),
                gate=ActionGate(contract, limits),
                supervisor=supervisor,
                arbiter=Arbiter(),
                clock=clock,
            )
            self.controls[role] = ControlLoop(parts)
            builders[role] = ObservationBuilder(contract, objects=source)
            supervisor.arm(supervisor.confirm("arm", by="test", typed=role))
            self.controls[role].begin()
        self.pair = Pair(controls=self.controls, clock=clock)
        builder = PairBuilder(self.pair, builders)
        self.spec = builder.spec
        loop = PolicyLoop(self.pair, builder, self.policy, period=0.1)
        self.stepper = LockStep(self.pair, Loop(loop.tick, 0.1, "policy"), clock)

    def run(self, seconds: float) -> None:
        self.stepper.run(lambda: False, timeout=seconds)

    def phase(self, role: str) -> Phase:
        return self.controls[role].parts.supervisor.phase


def bench() -> Two:
    contract, clock = bench_contract(), ManualClock()
    places = [{"cube": (0.45, side, 0.1)} for side in (0.1, -0.1)]
    drivers: list[ArmDriver] = [BenchArm(contract, clock) for _ in ROLES]
    return Two(contract, drivers, [FixedObjects(place) for place in places], clock)


def test_an_action_is_split_by_role() -> None:
    contracts = dict.fromkeys(ROLES, bench_contract())
    parts = split_action(contracts, np.arange(16.0).reshape(2, 8))
    np.testing.assert_array_equal(parts["left"], [[0, 1, 2, 3], [8, 9, 10, 11]])
    np.testing.assert_array_equal(parts["right"], [[4, 5, 6, 7], [12, 13, 14, 15]])
    with pytest.raises(ValueError, match=r"Actions are \[1, 4\], allowed: .* left 4, right 4"):
        split_action(contracts, np.zeros((1, 4)))


def test_each_arm_goes_to_its_own_cube() -> None:
    two = bench()
    two.run(4.0)
    for role, side in (("left", 0.1), ("right", -0.1)):
        tick = two.controls[role].latest
        assert tick is not None and two.phase(role) is Phase.RUN
        np.testing.assert_allclose(tick.state.position, [0.45, side, 0.15], atol=0.01)
    assert set(two.policy.seen[-1]) == set(two.spec.names)
    assert two.spec.names[0] == "left/ee_position"
    # Each arm's record holds what was observed of it.
    obs = two.controls["right"].take_obs()
    assert obs is not None and set(obs) == set(bench_contract().obs.names)


def test_the_other_arm_holds_when_one_faults() -> None:
    two = bench()
    two.run(0.5)
    assert two.phase("left") is two.phase("right") is Phase.RUN
    two.controls["left"].fault(Reason.EMERGENCY_STOP)
    two.run(1.0)
    assert two.phase("left") is Phase.FAULT and two.phase("right") is Phase.HOLD
    right = two.controls["right"]
    assert right.latest is not None and right.latest.reasons & Reason.COMMAND_STALE
    assert np.abs(right.latest.state.dq).max() < 0.02


def test_arms_that_take_actions_at_different_rates_are_refused() -> None:
    two = bench()
    parts = two.controls["right"].parts
    action = dataclasses.replace(parts.contract.action, rate=5.0)
    slower = dataclasses.replace(parts.contract, action=action)
    other = ControlLoop(dataclasses.replace(parts, contract=slower))
    with pytest.raises(ValueError, match=r"actions at \[5.0, 10.0\] Hz, allowed: one rate"):
        Pair(controls={"left": two.controls["left"], "right": other}, clock=two.clock)


def test_two_control_loops_run_the_two_arms_of_one_scene() -> None:
    """Both hands go to their own side of the one cube, governed, in one physics."""
    clock = ManualClock()
    world = SimulatedArms(build_scene(two_arms()), ControlConfig())
    arms = list(world.arms.values())
    assert list(world.arms) == list(ROLES)
    drivers: list[ArmDriver] = [SimDriver(arm, clock) for arm in arms]
    two = Two(bench_contract(), drivers, [SimObjects(arm, clock) for arm in arms], clock)
    # Each beside its own side of the cube, as it sees it: both at once would meet above it.
    two.policy.offset = np.float32([-0.1, 0.0, 0.05])
    two.run(4.0)
    cube = world.scene.object("cube")
    for role, arm, way in zip(ROLES, arms, (-0.1, 0.1), strict=True):
        tick = two.controls[role].latest
        assert tick is not None and two.phase(role) is Phase.RUN
        np.testing.assert_allclose(tick.state.position, [0.45, 0.0, 0.07], atol=0.01)
        # The right one's base is turned by half a turn: its -x is the world's +x.
        there = np.asarray(world.sim.site_xpos[world.scene.arms[role].ee_site_id])
        middle = np.asarray(world.sim.xpos[cube.body_id])
        np.testing.assert_allclose(there - middle, [way, 0.0, 0.05], atol=0.01)
        np.testing.assert_allclose(arm.objects()["cube"], [0.55, 0.0, 0.02], atol=1e-3)
    # Time passed once for both.
    assert world.substeps * arms[0].sim_dt == pytest.approx(4.0, abs=0.02)
