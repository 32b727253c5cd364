"""An arm for tests: follows its targets at once in a clock turned by hand, and fails on demand."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from robot_bridge.cameras.camera import Frame
from robot_bridge.clock import ManualClock
from robot_bridge.control.arbiter import Arbiter
from robot_bridge.control.control_loop import ControlLoop, Parts
from robot_bridge.control.session import CONTROL_PERIOD, LockStep, Loop
from robot_bridge.driver import ArmState, ArmToken, DriverError, Mode
from robot_bridge.drivers.dry_run import NullDriver
from robot_bridge.messages import Tick
from robot_bridge.policy.observation import FixedObjects, ObservationBuilder
from robot_bridge.policy.policy_loop import PolicyLoop
from robot_bridge.reasons import Phase
from robot_bridge.records.steps import StepCollector
from robot_bridge.safety.command_check import ActionGate
from robot_bridge.safety.governor import Governor
from robot_bridge.safety.limits import Limits, default_limits
from robot_bridge.safety.supervisor import Supervisor
from scenes.contract.policy_contract import Contract, IkSpec
from scenes.contract.specs import ActionSpec, CameraSpec, ObsField, ObsSpec
from scenes.robots import robot_named

PHRASE = "0123abcd bench"
CUBE = (0.45, 0.05, 0.02)
HOME = (0.0, 0.195, 0.0, -2.43, 0.0, 2.62, 0.785)  # of pick_cube
CAMERA = CameraSpec(
    name="front", pos=(1.0, 0.0, 0.5), quat=(1.0, 0.0, 0.0, 0.0), fovy=45.0, width=8, height=8
)


def bench_contract(*, camera: bool = False) -> Contract:
    """pick_cube's, with the cube or with a small picture."""
    names = ("ee_position", "ee_target", "ee_lag") + (() if camera else ("cube_from_ee",))
    fields = [ObsField(name=name, shape=(3,), unit="m") for name in names]
    if camera:
        fields.append(ObsField(name="front", shape=(8, 8, 3), dtype="uint8", unit="1/255"))
    return Contract(
        robot=robot_named("panda"),
        obs=ObsSpec(fields=tuple(fields)),
        action=ActionSpec(
            mode="ee_delta",
            names=("x", "y", "z", "gripper"),
            scale=(0.025, 0.025, 0.025, 1.0),
            rate=10.0,
        ),
        ik=IkSpec(rate=40.0, damping=1e-3, max_joint_step=0.15),
        home=HOME,
        episode_steps=100,
        cameras=(CAMERA,) if camera else (),
    )


class BenchArm(NullDriver):
    """A NullDriver whose readings a test can spoil.

    spoil: changes of the next readings, until cleared. broken: every call raises. calls: what
    was asked of it, in order, states left out.
    """

    def __init__(self, contract: Contract, clock: ManualClock) -> None:
        super().__init__(contract.robot, contract.home, clock)
        self.spoil: Callable[[ArmState], ArmState] | None = None
        self.broken = False
        self.calls: list[str] = []
        self.recovered: list[ArmToken] = []

    def state(self) -> ArmState:
        self._check()
        state = super().state()
        return state if self.spoil is None else self.spoil(state)

    def servo(self, target: Any) -> None:
        self._check()
        self.calls.append("servo")
        super().servo(target)

    def stop(self, kind: Any) -> None:
        self.calls.append(f"stop {kind}")
        self._check()
        super().stop(kind)

    def recover(self, token: ArmToken) -> None:
        super().recover(token)
        self.recovered.append(token)
        self.spoil = None

    def _check(self) -> None:
        if self.broken:
            raise DriverError("The link is gone")


class ScriptedPolicy:
    """Acts as told: `script` turns the number of a call into actions, or raises."""

    def __init__(self, script: Callable[[int], Any]) -> None:
        self.script, self.count = script, 0

    def reset(self) -> None:
        self.count = 0

    def act(self, obs: Mapping[str, np.ndarray]) -> Any:
        self.count += 1
        return self.script(self.count - 1)


def steady(_: int) -> np.ndarray:
    """A slow push to the left."""
    return np.array([[0.0, 0.4, 0.0, 0.0]], np.float32)


class FakeEye:
    """A camera that shows `picture`, taken `age` seconds ago; None before the first."""

    intrinsics = (9.0, 9.0, 4.0, 4.0)

    def __init__(self, clock: ManualClock) -> None:
        self.clock, self.age = clock, 0.0
        self.picture: np.ndarray | None = np.full((8, 8, 3), 99, np.uint8)

    def latest(self) -> Frame | None:
        if self.picture is None:
            return None
        return Frame(self.picture, self.clock.now() - self.age, 0)


class Bench:
    """Arm, loops and clock, armed and running unless told otherwise."""

    def __init__(
        self,
        script: Callable[[int], Any] = steady,
        *,
        camera: bool = False,
        running: bool = True,
        enabled: Callable[[], bool] | None = None,
        horizon: int = 1,
        **limits: Any,
    ) -> None:
        self.clock = ManualClock()
        self.contract = bench_contract(camera=camera)
        self.limits: Limits = replace(default_limits(self.contract.robot), **limits)
        self.arm = BenchArm(self.contract, self.clock)
        self.arm.connect()
        self.supervisor = Supervisor(self.arm, self.clock, phrase=PHRASE)
        self.ticks: list[Tick] = []
        parts = Parts(
            contract=self.contract,
            limits=self.limits,
            driver=self.arm,
            governor=Governor(self.contract.robot, self.limits, dt=CONTROL_PERIOD),
            gate=ActionGate(self.contract, self.limits),
            supervisor=self.supervisor,
            arbiter=Arbiter(),
            clock=self.clock,
        )
        self.control = ControlLoop(parts, sinks=[self.ticks.append], enabled=enabled)
        self.eye = FakeEye(self.clock)
        self.policy = ScriptedPolicy(script)
        self.places: dict[str, tuple[float, ...]] = {"cube": CUBE}
        builder = ObservationBuilder(
            self.contract,
            objects=FixedObjects(self.places),
            eyes={"front": self.eye} if camera else {},
        )
        self.loop = PolicyLoop(self.control, builder, self.policy, period=0.1, horizon=horizon)
        self.stepper = LockStep(self.control, Loop(self.loop.tick, 0.1, "policy"), self.clock)
        if running:
            self.arm_it()
            self.control.begin()
            self.run(0.5)
            assert self.phase is Phase.RUN

    @property
    def phase(self) -> Phase:
        return self.supervisor.phase

    def arm_it(self) -> None:
        self.supervisor.arm(self.supervisor.confirm("arm", by="test", typed=PHRASE))

    def run(self, seconds: float) -> list[Tick]:
        """Let time pass; return its ticks."""
        before = len(self.ticks)
        self.stepper.run(lambda: False, timeout=seconds)
        return self.ticks[before:]

    def collect_steps(self) -> tuple[StepCollector, list[np.ndarray]]:
        """Return the steps from now on, and where the tool was as each began."""
        collector, positions = StepCollector(), []

        def collect(tick: Tick) -> None:
            collector.take(tick, self.control.take_obs())
            if tick.action is not None:
                positions.append(tick.state.position)

        self.control.sinks = (*self.control.sinks, collect)
        return collector, positions

    def run_until(self, phase: Phase, *, within: float) -> float:
        """Let time pass until the phase; return how long it took [s]."""
        began = self.clock.now()
        for _ in range(round(within / CONTROL_PERIOD)):
            self.run(CONTROL_PERIOD)
            if self.phase is phase:
                return self.clock.now() - began
        raise AssertionError(f"{self.phase} after {within} s, wanted {phase}")


def changed(**changes: Any) -> Callable[[ArmState], ArmState]:
    """A spoiler that replaces fields."""
    return lambda state: replace(state, **changes)


def at_rest(ticks: list[Tick], *, speed: float = 1e-3) -> bool:
    """Whether the last targets stand still [m/s]."""
    a, b = ticks[-2].target, ticks[-1].target
    assert a is not None and b is not None
    return float(np.linalg.norm(b.position - a.position)) / CONTROL_PERIOD < speed


REFLEX = changed(mode=Mode.REFLEX, faults=("joint_velocity_violation",))
