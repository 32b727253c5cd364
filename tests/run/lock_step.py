"""A policy through the bridge and through the environment, step by step: `lock_step.py TASK...`.

Prints one JSON line for each task: steps, the largest difference of any observation and of any
action, how far the hand moved [m] and turned [rad]. A process of its own, because it is about
rounding: XLA must compile it as it compiles training.
"""

import dataclasses
import json
import sys
from pathlib import Path

from mjx_serl.platform import prepare_platform

prepare_platform(cache_dir=Path(__file__).parents[2] / ".cache" / "jax")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from mjx_serl.envs.control.controller import ControlConfig  # noqa: E402
from mjx_serl.envs.env import make_env  # noqa: E402
from mjx_serl.envs.observation import Observer  # noqa: E402
from mjx_serl.envs.task import TASKS  # noqa: E402
from mjx_serl.run.simulated_arm import SimulatedArm  # noqa: E402
from mjx_serl.tasks.pick_turned_bar import TURNED  # noqa: E402
from robot_bridge.clock import ManualClock  # noqa: E402
from robot_bridge.control.arbiter import Arbiter  # noqa: E402
from robot_bridge.control.control_loop import ControlLoop, Parts  # noqa: E402
from robot_bridge.control.session import LockStep, Loop  # noqa: E402
from robot_bridge.drivers.simulated import SimDriver, SimObjects, SteppedGovernor  # noqa: E402
from robot_bridge.policy.observation import ObservationBuilder  # noqa: E402
from robot_bridge.policy.policy_loop import PolicyLoop  # noqa: E402
from robot_bridge.safety.command_check import ActionGate  # noqa: E402
from robot_bridge.safety.limits import default_limits  # noqa: E402
from robot_bridge.safety.supervisor import Supervisor  # noqa: E402

STEPS = 25
# Everything that an orientation can be commanded by, at once: the tool's axes, the measured pose,
# a limit to the turning.
TOOL = ControlConfig(
    rate=10.0,
    inner_rate=40.0,
    turn_scale=0.1,
    frame="tool",
    base="measured",
    turn_limit=0.4,
)
TASKS.register("test/tool_frame")(dataclasses.replace(TURNED, control=TOOL))


class Act:
    """What the networks of a policy do: a smooth function of all that is observed."""

    def __init__(self, observer: Observer) -> None:
        size = sum(int(np.prod(field.shape)) for field in observer.obs_spec.fields)
        shape = size, observer.env.action_dim
        self.gain = np.random.default_rng(3).normal(size=shape).astype(np.float32)

    def __call__(self, obs: dict) -> jax.Array:
        """Choose an action that depends on everything."""
        row = jnp.concatenate([jnp.asarray(obs[name]) for name in sorted(obs)])
        return jnp.tanh(3.0 * row @ self.gain)


class Recorded:
    """The same function as the bridge's policy; keeps what it saw and chose."""

    def __init__(self, observer: Observer) -> None:
        self.rows: list[tuple[dict, np.ndarray]] = []
        self._act = jax.jit(Act(observer))

    def reset(self) -> None:
        self.rows.clear()

    def act(self, obs: dict) -> np.ndarray:
        actions = np.asarray(self._act(obs))[None]
        self.rows.append((dict(obs), actions))
        return actions


def through_the_bridge(observer: Observer, world: SimulatedArm) -> Recorded:
    """Play one episode's first steps under the bridge, ungoverned."""
    contract, clock = observer.contract, ManualClock()
    driver = SimDriver(world, clock)
    limits = default_limits(contract.robot)
    parts = Parts(
        contract=contract,
        limits=limits,
        driver=driver,
        governor=SteppedGovernor(driver.info),
        gate=ActionGate(contract, limits),
        supervisor=Supervisor(driver, clock, phrase="sim"),
        arbiter=Arbiter(),
        clock=clock,
    )
    control, policy = ControlLoop(parts), Recorded(observer)
    builder = ObservationBuilder(contract, objects=SimObjects(world, clock))
    period = 1.0 / contract.action.rate
    loop = Loop(PolicyLoop(control, builder, policy, period=period).tick, period, "policy")
    driver.connect()
    driver.start(1)
    parts.supervisor.arm(parts.supervisor.confirm("arm", by="test", typed="sim"))
    control.begin()
    LockStep(control, loop, clock, period=period).run(lambda: False, timeout=STEPS * period)
    return policy


def compare(task: str) -> dict[str, float]:
    """Play both."""
    observer = Observer(make_env(task, physics="native"))
    world = SimulatedArm(observer, seed=5, episodes=2, governed=False)
    rows = through_the_bridge(observer, world).rows
    step, choose = jax.jit(observer.env.step), jax.jit(Act(observer))
    state = jax.jit(observer.env.reset)(world._starts[1])
    hands: list[np.ndarray] = []
    worst = {"obs": 0.0, "action": 0.0}
    for seen, actions in rows:
        expected = choose(state.obs)
        for name, value in seen.items():
            gap = float(np.abs(value - np.asarray(state.obs[name])).max())
            worst["obs"] = max(worst["obs"], gap)
        worst["action"] = max(worst["action"], float(np.abs(actions[0] - expected).max()))
        hands.append(np.asarray(state.sim.site_xmat[observer.env.scene.arm.ee_site_id]))
        state = step(state, expected)
    moved = float(np.linalg.norm(rows[-1][0]["ee_position"] - rows[0][0]["ee_position"]))
    # The trace of the rotation from the first to the last is 1 + 2 cos of its angle.
    turned = float(np.arccos(np.clip(0.5 * (hands[-1] @ hands[0] - 1.0), -1.0, 1.0)))
    return {"steps": len(rows), "moved": moved, "turned": turned, **worst}


if __name__ == "__main__":
    for name in sys.argv[1:]:
        sys.stdout.write(json.dumps(compare(name)) + "\n")
